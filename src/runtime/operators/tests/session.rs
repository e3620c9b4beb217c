//! `PagedAttention` in an ONNX Runtime session, as a graph of one node.

use std::path::Path;

use half::f16;
use ort::environment::Environment;
use ort::session::{Session, SessionInputValue};
use ort::value::{Tensor, TensorRefMut};
use prost::Message;

use super::super::domain;
use super::*;
use crate::graph::{ORTOLAN_DOMAIN, OperatorMatrices};
use crate::runtime::library::lock_session_creation;

pub(super) fn environment() -> Environment {
    let library =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/onnxruntime/libonnxruntime.so");
    assert!(
        library.exists(),
        "{} is missing: run `make setup`",
        library.display()
    );
    crate::runtime::environment(&library).unwrap()
}

/// The messages of `onnx/onnx.proto` that a graph of one node needs. Unlike [`crate::graph::onnx`], this module has
/// text attributes.
mod onnx {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Model {
        #[prost(int64, tag = "1")]
        pub(super) ir_version: i64,
        #[prost(message, optional, tag = "7")]
        pub(super) graph: Option<Graph>,
        #[prost(message, repeated, tag = "8")]
        pub(super) opset_import: Vec<OperatorSet>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct OperatorSet {
        #[prost(string, tag = "1")]
        pub(super) domain: String,
        #[prost(int64, tag = "2")]
        pub(super) version: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Graph {
        #[prost(message, repeated, tag = "1")]
        pub(super) node: Vec<Node>,
        #[prost(string, tag = "2")]
        pub(super) name: String,
        #[prost(message, repeated, tag = "11")]
        pub(super) input: Vec<ValueInfo>,
        #[prost(message, repeated, tag = "12")]
        pub(super) output: Vec<ValueInfo>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Node {
        #[prost(string, repeated, tag = "1")]
        pub(super) input: Vec<String>,
        #[prost(string, repeated, tag = "2")]
        pub(super) output: Vec<String>,
        #[prost(string, tag = "4")]
        pub(super) op_type: String,
        #[prost(message, repeated, tag = "5")]
        pub(super) attribute: Vec<Attribute>,
        #[prost(string, tag = "7")]
        pub(super) domain: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Attribute {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(float, tag = "2")]
        pub(super) float: f32,
        #[prost(int64, tag = "3")]
        pub(super) int: i64,
        #[prost(bytes = "vec", tag = "4")]
        pub(super) string: Vec<u8>,
        #[prost(int32, tag = "20")]
        pub(super) kind: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ValueInfo {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(message, optional, tag = "2")]
        pub(super) kind: Option<Type>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Type {
        #[prost(message, optional, tag = "1")]
        pub(super) tensor: Option<TensorType>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct TensorType {
        #[prost(int32, tag = "1")]
        pub(super) element: i32,
    }
}

const F32: i32 = 1;
const I32: i32 = 6;
const F16: i32 = 10;

enum AttributeValue {
    Int(i64),
    Float(f32),
    Text(&'static str),
}
use AttributeValue::{Float, Int, Text};

const INPUTS: [(&str, i32); 17] = [
    ("query", F32),
    ("key", F32),
    ("value", F32),
    ("key_cache", F16),
    ("value_cache", F16),
    ("cumulative_sequence_length", I32),
    ("past_seqlens", I32),
    ("block_table", I32),
    ("cos_cache", F32),
    ("sin_cache", F32),
    ("slot_mapping", I32),
    ("head_sink", F32),
    ("q_norm_weight", F32),
    ("k_norm_weight", F32),
    ("k_scale", F32),
    ("v_scale", F32),
    ("attention_metadata", I32),
];

/// Creates a session of one node with the inputs named in `given`. The node has the attributes of [`small`] and
/// `extra_attributes`.
fn session(given: &[&str], extra_attributes: &[(&str, AttributeValue)]) -> ort::Result<Session> {
    let base_attributes = [
        ("num_heads", Int(4)),
        ("kv_num_heads", Int(2)),
        ("do_rotary", Int(1)),
    ];
    let attribute = base_attributes
        .iter()
        .chain(extra_attributes)
        .map(|(name, value)| {
            let attribute = onnx::Attribute {
                name: name.to_string(),
                ..Default::default()
            };
            match *value {
                Float(float) => onnx::Attribute {
                    float,
                    kind: 1,
                    ..attribute
                },
                Int(int) => onnx::Attribute {
                    int,
                    kind: 2,
                    ..attribute
                },
                Text(text) => onnx::Attribute {
                    string: text.into(),
                    kind: 3,
                    ..attribute
                },
            }
        });
    let info = |&(name, element): &(&str, i32)| onnx::ValueInfo {
        name: name.to_string(),
        kind: Some(onnx::Type {
            tensor: Some(onnx::TensorType { element }),
        }),
    };
    let node = onnx::Node {
        input: INPUTS
            .map(|(name, _)| {
                if given.contains(&name) {
                    name.to_string()
                } else {
                    String::new()
                }
            })
            .into(),
        output: vec!["output".into()],
        op_type: "PagedAttention".into(),
        attribute: attribute.collect(),
        domain: ORTOLAN_DOMAIN.into(),
    };
    let graph = onnx::Graph {
        node: vec![node],
        name: "one node".into(),
        input: INPUTS
            .iter()
            .filter(|(name, _)| given.contains(name))
            .map(info)
            .collect(),
        output: vec![info(&("output", F32))],
    };
    let opset = |domain: &str, version| onnx::OperatorSet {
        domain: domain.into(),
        version,
    };
    let model = onnx::Model {
        ir_version: 10,
        graph: Some(graph),
        opset_import: vec![opset("", 18), opset(ORTOLAN_DOMAIN, 1)],
    };
    // SAFETY: the only node is the only user of its caches, which are inputs of the session. `run` passes them as
    // mutable slices.
    let domain = unsafe { domain(OperatorMatrices::default()) };
    let _guard = lock_session_creation();
    Session::builder(&environment())?
        .with_operators(domain?)?
        .with_intra_threads(2)?
        .commit_from_memory(&model.encode_to_vec())
}

/// Runs the step of [`small`] on `caches`, after `corrupt` has changed the tensors. The inputs named in `dummy_inputs`
/// get the value `[1.0]`.
fn run(
    session: &mut Session,
    caches: &mut Caches,
    corrupt: impl FnOnce(&mut Tensors),
    dummy_inputs: &[&'static str],
) -> ort::Result<Vec<f32>> {
    let (node, chunks) = small();
    let mut tensors = node.tensors(&chunks);
    corrupt(&mut tensors);
    let shape = [4, 16, 2, 16_usize];
    let names: Vec<String> = session
        .inputs()
        .iter()
        .map(|input| input.name().to_string())
        .collect();
    let mut cache_slices = [Some(&mut caches.keys[..]), Some(&mut caches.values[..])];
    let mut feed: Vec<(String, SessionInputValue)> = Vec::new();
    for name in names {
        let floats = |row: usize, values: &[f32]| -> ort::Result<SessionInputValue> {
            Ok(Tensor::from_array(([values.len() / row, row], values.to_vec()))?.into())
        };
        let ints = |values: &[i32]| -> ort::Result<SessionInputValue> {
            Ok(Tensor::from_array(([values.len()], values.to_vec()))?.into())
        };
        let (key, value) = tensors.key_value.clone().unwrap();
        let tensor: SessionInputValue = match &name[..] {
            "query" => floats(64, &tensors.query)?,
            "key" => floats(32, &key)?,
            "value" => floats(32, &value)?,
            "key_cache" => {
                TensorRefMut::<f16>::from_array_view_mut((shape, cache_slices[0].take().unwrap()))?
                    .into()
            }
            "value_cache" => {
                TensorRefMut::<f16>::from_array_view_mut((shape, cache_slices[1].take().unwrap()))?
                    .into()
            }
            "cumulative_sequence_length" => ints(&tensors.cumulative)?,
            "past_seqlens" => ints(&tensors.past)?,
            "block_table" => {
                let rows = tensors.table.len() / tensors.blocks_per_sequence;
                Tensor::from_array(([rows, tensors.blocks_per_sequence], tensors.table.clone()))?
                    .into()
            }
            "cos_cache" => floats(8, &tensors.cosines)?,
            "sin_cache" => floats(8, &tensors.sines)?,
            "slot_mapping" => ints(tensors.slots.as_deref().unwrap())?,
            "attention_metadata" => ints(&[1, 0])?,
            "q_norm_weight" if !dummy_inputs.contains(&"q_norm_weight") => {
                let gain = tensors.query_gain.clone();
                Tensor::from_array(([gain.len()], gain))?.into()
            }
            "k_norm_weight" if !dummy_inputs.contains(&"k_norm_weight") => {
                let gain = tensors.key_gain.clone();
                Tensor::from_array(([gain.len()], gain))?.into()
            }
            other if dummy_inputs.contains(&other) => {
                Tensor::from_array(([1_usize], vec![1.0_f32]))?.into()
            }
            other => panic!("unexpected input {other}"),
        };
        feed.push((name, tensor));
    }
    let outputs = session.run(feed)?;
    let (shape, output) = outputs["output"].try_extract_tensor::<f32>()?;
    assert_eq!(**shape, [4, 64]);
    Ok(output.to_vec())
}

const USUAL_INPUTS: [&str; 11] = [
    "query",
    "key",
    "value",
    "key_cache",
    "value_cache",
    "cumulative_sequence_length",
    "past_seqlens",
    "block_table",
    "cos_cache",
    "sin_cache",
    "slot_mapping",
];

#[test]
fn a_session_computes_the_same_as_attend() {
    let (node, chunks) = small();
    let mut expected_caches = node.caches(&chunks);
    let expected = node.run(
        &chunks,
        &mut expected_caches,
        Instructions::detect(),
        &one_thread,
    );

    let with_metadata = [&USUAL_INPUTS[..], &["attention_metadata"]].concat();
    for given in [&USUAL_INPUTS[..], &USUAL_INPUTS[..10], &with_metadata] {
        let mut caches = node.caches(&chunks);
        let attributes = [
            ("kv_cache_layout", Text("SEPARATE")),
            ("softcap", Float(0.0)),
            ("k_cache_dtype", Text("float16")),
        ];
        let mut session = session(given, &attributes).unwrap();
        let output = run(&mut session, &mut caches, |_| (), &[]).unwrap();
        assert_eq!(bits(&output), bits(&expected));
        assert_eq!(caches.bits(), expected_caches.bits());
    }
}

fn check_attribute(attribute: (&'static str, AttributeValue), expected: &str) {
    let message = session(&USUAL_INPUTS, &[attribute])
        .expect_err("the attribute is invalid")
        .to_string();
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_session_applies_norms_softcap_and_sliding_window() {
    let (node, chunks) = small();
    let node = Node {
        has_norms: true,
        softcap: Some(1.5),
        window: Some(7),
        ..node
    };
    let mut expected_caches = node.caches(&chunks);
    let expected = node.run(
        &chunks,
        &mut expected_caches,
        Instructions::detect(),
        &one_thread,
    );
    let attributes = [
        ("softcap", Float(1.5)),
        ("local_window_size", Int(7)),
        ("qk_norm_epsilon", Float(NORM_EPSILON)),
    ];
    let given = [&USUAL_INPUTS[..], &["q_norm_weight", "k_norm_weight"]].concat();
    let mut caches = node.caches(&chunks);
    let mut session = session(&given, &attributes).unwrap();
    let output = run(&mut session, &mut caches, |_| (), &[]).unwrap();
    assert_eq!(bits(&output), bits(&expected));
    assert_eq!(caches.bits(), expected_caches.bits());
}

#[test]
fn invalid_attributes_are_rejected_when_the_session_is_created() {
    check_attribute(("softcap", Float(-1.0)), "softcap is -1, not above 0");
    check_attribute(
        ("local_window_size", Int(0)),
        "local_window_size is 0, not -1 or above 0",
    );
    check_attribute(
        ("qk_norm_epsilon", Float(f32::INFINITY)),
        "qk_norm_epsilon is inf, not above 0",
    );
    check_attribute(("is_causal", Int(0)), "is_causal = 0 is not supported");
    check_attribute(
        ("rotary_offset", Int(8)),
        "rotary_offset = 8 is not supported",
    );
    check_attribute(("v_head_size", Int(8)), "v_head_size = 8 is not supported");
    check_attribute(
        ("kv_cache_layout", Text("LATENT")),
        "kv_cache_layout = \"LATENT\" is not supported",
    );
    check_attribute(
        ("k_quant_type", Text("PER_TENSOR")),
        "k_quant_type = \"PER_TENSOR\" is not supported",
    );
    check_attribute(
        ("v_cache_dtype", Text("int8")),
        "v_cache_dtype = \"int8\" is not supported",
    );
    check_attribute(
        ("rotary_interleaved", Int(2)),
        "rotary_interleaved is 2, not 0 or 1",
    );
    check_attribute(("scale", Float(f32::NAN)), "scale is not finite");
}

fn check_run(
    given: &[&str],
    corrupt: impl FnOnce(&mut Tensors),
    dummy_inputs: &[&'static str],
    expected: &str,
) {
    let (node, chunks) = small();
    let mut caches = node.caches(&chunks);
    let message = run(
        &mut session(given, &[]).unwrap(),
        &mut caches,
        corrupt,
        dummy_inputs,
    )
    .unwrap_err()
    .to_string();
    assert!(message.contains(expected), "{message}");
}

#[test]
fn invalid_inputs_are_rejected_when_the_session_runs() {
    for unsupported in ["head_sink", "k_scale", "v_scale"] {
        let given = [&USUAL_INPUTS[..], &[unsupported]].concat();
        check_run(
            &given,
            |_| (),
            &[unsupported],
            &format!("{unsupported}: is not supported on CPU"),
        );
    }
    for (given, missing) in [
        ("q_norm_weight", "k_norm_weight"),
        ("k_norm_weight", "q_norm_weight"),
    ] {
        let problem = format!("{missing}: is missing, but {given} is given");
        check_run(
            &[&USUAL_INPUTS[..], &[given]].concat(),
            |_| (),
            &[given],
            &problem,
        );
    }
    check_run(
        &[&USUAL_INPUTS[..], &["q_norm_weight", "k_norm_weight"]].concat(),
        |tensors| tensors.query_gain.truncate(1),
        &[],
        "q_norm_weight: has 1 elements, the head size is 16",
    );
    let without = |name: &str| {
        USUAL_INPUTS
            .into_iter()
            .filter(|&given| given != name)
            .collect::<Vec<_>>()
    };
    check_run(
        &without("key"),
        |_| (),
        &[],
        "key: is missing, but value is given",
    );
    check_run(
        &without("value"),
        |_| (),
        &[],
        "value: is missing, but key is given",
    );
    check_run(&without("sin_cache"), |_| (), &[], "sin_cache: is missing");
    check_run(&without("cos_cache"), |_| (), &[], "cos_cache: is missing");
    let without_key_value = [&USUAL_INPUTS[..1], &USUAL_INPUTS[3..]].concat();
    check_run(
        &without_key_value,
        |_| (),
        &[],
        "query: has rows of 64 elements for 8 heads of 16",
    );
    check_run(
        &USUAL_INPUTS,
        |tensors| tensors.table[0] = 9,
        &[],
        "block_table: sequence 0 has block 9, but the cache has 4 blocks",
    );
    check_run(
        &USUAL_INPUTS,
        |tensors| tensors.sines.truncate(8),
        &[],
        "sin_cache: does not have the shape of cos_cache",
    );
}
