//! ONNX models of other exporters against transformers with the same weights (`tests/golden/exports.py`): logits and
//! greedy tokens. Batch composition, chunk sizes and cached prefixes change no bit. Invalid graphs are rejected.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod common;
#[path = "common/standalone_decoder.rs"]
mod standalone_decoder;
#[path = "common/standalone_model.rs"]
mod standalone_model;

use std::fs;
use std::path::{Path, PathBuf};

use common::recorded;
use ortolan::engine::WantedRows;
use ortolan::file_bytes::FileAccess;
use ortolan::graph::imported::ImportedAttention;
use ortolan::model::load::{ModelSource, OpenedModel};
use ortolan::token::TokenId;
use serde_json::Value;
use standalone_decoder::{bits, chunk, max_difference};
use standalone_model::{StandaloneModel, best};

/// Largest allowed absolute difference from the recorded logits, by the key of the recorded logits.
const MAX_DIFFERENCES: [(&str, f32); 3] = [
    // The KV cache of the paged attention is in half precision.
    ("logits", 0.01),
    // Half-precision rounding changes the int8 quants of some activations.
    ("logits_int4", 0.15),
    // Recorded with ONNX Runtime on processors with and without VNNI; one of the recordings must match.
    ("logits_int8", 1e-5),
];

fn folder(name: &str) -> PathBuf {
    let exports = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/exports");
    exports.join(name)
}

fn tokens(value: &Value) -> Vec<TokenId> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The recorded exports: folder name, test cases, and the key of the logits that this export must reproduce.
fn recorded_exports() -> Vec<(String, Vec<Value>, &'static str)> {
    let recorded = recorded("exports/exports.json");
    let mut exports = Vec::new();
    for model in recorded["models"].as_array().unwrap() {
        let cases = model["cases"].as_array().unwrap();
        for name in model["folders"].as_array().unwrap() {
            exports.push((name.as_str().unwrap().to_owned(), cases.clone(), "logits"));
        }
        let int4 = model["int4"].as_str().unwrap().to_owned();
        exports.push((int4, cases.clone(), "logits_int4"));
        if let Some(int8) = model["int8"].as_str() {
            exports.push((int8.to_owned(), cases.clone(), "logits_int8"));
        }
    }
    assert_eq!(exports.len(), 7);
    exports
}

#[test]
fn logits_and_greedy_tokens_match_transformers() {
    for (name, cases, logits) in recorded_exports() {
        let mut model = StandaloneModel::open(&folder(&name));
        for case in cases {
            let prompt = tokens(&case["tokens"]);
            let expected: Vec<Vec<f32>> = match &case[logits] {
                Value::Array(runs) if runs[0].is_array() => {
                    serde_json::from_value(case[logits].clone()).unwrap()
                }
                single_run => vec![serde_json::from_value(single_run.clone()).unwrap()],
            };
            let actual = model.logits(&prompt, &[64]).pop().unwrap();
            let difference = expected
                .iter()
                .map(|expected| max_difference(&actual, expected))
                .fold(f32::INFINITY, f32::min);
            let mut differences = MAX_DIFFERENCES.iter();
            let (_, allowed) = differences.find(|(kind, _)| *kind == logits).unwrap();
            println!("{name}: {difference}");
            assert!(difference <= *allowed, "{name}: {difference}");
            if logits == "logits" {
                let mut text = prompt.clone();
                for token in tokens(&case["greedy"]) {
                    let row = model.logits(&text, &[64]).pop().unwrap();
                    assert_eq!(best(&row), token, "{name} after {text:?}");
                    text.push(token);
                }
            }
        }
    }
}

#[test]
fn only_group_query_attention_is_replaced_by_paged_attention() {
    for (name, _, _) in recorded_exports() {
        let files = OpenedModel::open_any(&folder(&name), FileAccess::Map).unwrap();
        let ModelSource::Imported(model) = files.file else {
            panic!("{name} is not an imported graph");
        };
        let is_paged = model.attention == ImportedAttention::Paged;
        assert_eq!(is_paged, name.starts_with("genai"), "{name}");
    }
}

#[test]
fn chunk_sizes_change_no_bit() {
    for (name, _, _) in recorded_exports() {
        let mut model = StandaloneModel::open(&folder(&name));
        let text: Vec<TokenId> = (0..90).map(|index| TokenId(index * 7 % 300)).collect();
        let whole = model.logits(&text, &[text.len()]);
        let chunkings: [&[usize]; 6] = [
            &[1],
            &[2],
            &[3, 1, 7, 5],
            &[17, 1],
            &[15, 1, 16],
            &[31, 33, 1],
        ];
        for chunks in chunkings {
            let chunked = model.logits(&text, chunks);
            for (row, (left, right)) in whole.iter().zip(&chunked).enumerate() {
                assert!(bits(left) == bits(right), "{name}: row {row} in {chunks:?}");
            }
        }
    }
}

#[test]
fn batch_composition_and_cached_prefixes_change_no_bit() {
    for (name, cases, _) in recorded_exports() {
        let mut model = StandaloneModel::open(&folder(&name));
        let texts: Vec<Vec<TokenId>> = cases.iter().map(|case| tokens(&case["tokens"])).collect();
        let alone: Vec<_> = texts
            .iter()
            .map(|text| bits(&model.logits(text, &[64]).pop().unwrap()))
            .collect();
        // All prompts in one step; then only the last tokens in one step, with the rest in the cache.
        let blocks: Vec<_> = texts
            .iter()
            .map(|text| model.allocate(text.len()))
            .collect();
        let chunk = |number: usize, past: usize| {
            chunk(number, &texts[number][past..], past, &blocks[number])
        };
        let together = model.step((0..texts.len()).map(|number| chunk(number, 0)).collect());
        assert!(together == alone, "{name}: together");
        let last = |number: usize| chunk(number, texts[number].len() - 1);
        let continued = model.step((0..texts.len()).map(last).collect());
        assert!(continued == alone, "{name}: continued");
    }
}

#[test]
fn hidden_states_are_output_for_the_requested_rows() {
    for (name, cases, _) in recorded_exports() {
        let mut model = StandaloneModel::open(&folder(&name));
        let text = tokens(&cases[1]["tokens"]);
        let blocks = model.allocate(text.len());
        let mut chunk = chunk(0, &text, 0, &blocks);
        (chunk.logits, chunk.hidden) = (WantedRows::None, WantedRows::All);
        model.run(vec![chunk]);
        assert_eq!(model.outputs.logits.rows().len(), 0, "{name}");
        let rows: Vec<&[f32]> = model.outputs.hidden.rows().collect();
        assert_eq!(rows.len(), text.len(), "{name}");
        let norm = |row: &&[f32]| row.iter().map(|x| x * x).sum::<f32>();
        assert!(rows.iter().all(|row| norm(row) > 1.0), "{name}");
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Offsets of all occurrences of `text` in `bytes`.
fn offsets(bytes: &[u8], text: &str) -> Vec<usize> {
    let starts = 0..bytes.len().saturating_sub(text.len());
    starts
        .filter(|offset| bytes[*offset..].starts_with(text.as_bytes()))
        .collect()
}

/// Copies an export, changes the bytes of its graph, and returns the error of opening it.
#[track_caller]
fn open_error(name: &str, change: impl FnOnce(&Path, Vec<u8>) -> Vec<u8>) -> String {
    let copy = tempfile::tempdir().unwrap();
    copy_files(&folder(name), copy.path());
    let graph = copy.path().join("model.onnx");
    let bytes = change(copy.path(), fs::read(&graph).unwrap());
    fs::write(&graph, bytes).unwrap();
    match OpenedModel::open_any(copy.path(), FileAccess::Map) {
        Ok(_) => panic!("the graph was accepted"),
        Err(error) => format!("{error:#}").replace(&copy.path().display().to_string(), "…"),
    }
}

/// Replaces every occurrence of `old` with `new`, which has the same length.
fn replace_all(mut bytes: Vec<u8>, old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let offsets = offsets(&bytes, old);
    assert!(!offsets.is_empty());
    for offset in offsets {
        bytes[offset..offset + old.len()].copy_from_slice(new.as_bytes());
    }
    bytes
}

#[test]
fn unsupported_inputs_and_missing_outputs_are_rejected_by_name() {
    assert_eq!(
        open_error("optimum", |_, graph| replace_all(
            graph,
            "position_ids",
            "token_types_"
        )),
        "…/model.onnx: the graph's input \"token_types_\" is not supported"
    );
    assert_eq!(
        open_error("genai", |_, graph| replace_all(
            graph,
            "past_key_values.1.value",
            "past_key_values.1.velue"
        )),
        "…/model.onnx: the graph's input \"past_key_values.1.key\" is not supported"
    );
    assert_eq!(
        open_error("optimum", |_, graph| replace_all(graph, "logits", "lagits")),
        "…/model.onnx: the graph has no output \"logits\""
    );
}

#[test]
fn external_weights_must_be_complete_and_beside_the_graph() {
    for location in ["../../../secret", "/etc/passwords."] {
        assert_eq!(
            open_error("genai", |_, graph| replace_all(
                graph,
                "model.onnx.data",
                location
            )),
            format!(
                "…/model.onnx: the weights of \"model.embed_tokens.weight\" have the location \"{location}\", which is \
                 not a file name beside the graph"
            )
        );
    }
    let missing = open_error("genai", |folder, graph| {
        fs::remove_file(folder.join("model.onnx.data")).unwrap();
        graph
    });
    assert!(
        missing.starts_with("…/model.onnx: cannot open …/model.onnx.data: "),
        "{missing}"
    );
    let short = open_error("genai", |folder, graph| {
        fs::write(folder.join("model.onnx.data"), [0; 100]).unwrap();
        graph
    });
    assert_eq!(
        short,
        "…/model.onnx: the weights of \"model.embed_tokens.weight\" take 76800 bytes from offset 0 of \
         …/model.onnx.data, which has only 100 bytes"
    );
}

#[test]
fn bytes_that_are_not_a_graph_are_rejected() {
    for length in [1, 10, 1000, 10_000] {
        let error = open_error("genai", |_, graph| graph[..length].to_vec());
        assert!(
            error.starts_with("…/model.onnx: not a valid ONNX model: "),
            "{error}"
        );
    }
    assert_eq!(
        open_error("genai", |_, _| Vec::new()),
        "…/model.onnx: not a valid ONNX model: it has no graph"
    );
    // Empty nodes: two bytes in the file, hundreds in memory.
    let many = open_error("genai", |_, _| {
        let nodes = [0x0a, 0x00].repeat(20 << 20);
        let mut model = vec![0x3a];
        append_varint(&mut model, nodes.len());
        [model, nodes].concat()
    });
    assert!(many.ends_with("the maximum is 33554432"), "{many}");
}

/// Appends a length as a varint of Protocol Buffers.
fn append_varint(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}

#[test]
fn a_cyclic_graph_is_rejected_by_onnx_runtime() {
    let copy = tempfile::tempdir().unwrap();
    copy_files(&folder("genai"), copy.path());
    let graph = copy.path().join("model.onnx");
    let mut bytes = fs::read(&graph).unwrap();
    // The first layer's matrix multiplication reads an output of the second layer.
    let name = "/model/layers.0/post_attention_layernorm/output_0";
    let offset = offsets(&bytes, name)[1];
    bytes[offset + "/model/layers.".len()] = b'1';
    fs::write(&graph, bytes).unwrap();
    let error = StandaloneModel::try_open(copy.path())
        .map(drop)
        .unwrap_err();
    assert!(
        error.to_string().ends_with("the graph is not acyclic."),
        "{error}"
    );
}

#[test]
fn the_graph_of_a_folder_is_chosen_by_file_name() {
    let hub = tempfile::tempdir().unwrap();
    let graphs = hub.path().join("onnx");
    fs::create_dir(&graphs).unwrap();
    for entry in fs::read_dir(folder("optimum")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let is_graph = name == "model.onnx";
        let to = if is_graph {
            graphs.join("model_q4.onnx")
        } else {
            hub.path().join(name)
        };
        fs::copy(entry.path(), to).unwrap();
    }
    let opened = |path: &Path| {
        let files = OpenedModel::open_any(path, FileAccess::Map);
        files.map(|files| files.file.path().to_owned())
    };
    assert!(opened(hub.path()).unwrap().ends_with("onnx/model_q4.onnx"));
    fs::copy(graphs.join("model_q4.onnx"), graphs.join("model_fp16.onnx")).unwrap();
    let several = opened(hub.path()).unwrap_err().to_string();
    assert!(
        several.contains("several graphs but no model.onnx"),
        "{several}"
    );
    assert!(several.contains("model_fp16.onnx, ") && several.contains("model_q4.onnx"));
    assert!(opened(&graphs.join("model_q4.onnx")).is_ok());
    fs::copy(graphs.join("model_q4.onnx"), graphs.join("model.onnx")).unwrap();
    assert!(opened(hub.path()).unwrap().ends_with("onnx/model.onnx"));
}

#[test]
fn an_operator_of_ortolans_domain_is_rejected_by_name() {
    let error = open_error("genai", |_, graph| {
        // Encodes a length-delimited field whose number and length take one byte each.
        let field =
            |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
        let name = field(3, b"n");
        let operator = field(4, b"PagedAttention");
        let node = field(7, &[name, operator, field(7, b"ortolan")].concat());
        // The number of the field `functions` is 25, so its key takes two bytes.
        [&graph[..], &[0xca, 0x01, node.len() as u8], &node].concat()
    });
    assert_eq!(
        error,
        "…/model.onnx: the operator \"ortolan.PagedAttention\" in an imported graph (node \"n\") is not supported"
    );
}

#[test]
fn a_model_with_a_duplicate_singular_field_is_rejected() {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder("genai")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let path = copy.path().join("model.onnx");
    assert!(StandaloneModel::try_open(&path).is_ok());
    // A second, empty field `graph`: Protocol Buffers decoders merge it with the first.
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend([7 << 3 | 2, 0]);
    fs::write(&path, bytes).unwrap();
    let error = StandaloneModel::try_open(&path).err().unwrap();
    let error = format!("{error:#}");
    assert!(error.contains("duplicate field 7 in ModelProto"), "{error}");
}
