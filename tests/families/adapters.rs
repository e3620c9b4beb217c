//! LoRA adapters on models of every family, with adapter and model in either file format, against logits recorded from
//! PEFT (`tests/golden/adapters.py`). Also covers batches with different adapters, base models and invalid adapters.

use std::sync::LazyLock;

use ortolan::engine::{AdapterScales, Chunk, ModelRunner, SequenceId, StepPlan, WantedRows};
use ortolan::graph::Adapter;
use ortolan::runtime::DeviceOptions;
use proptest::prelude::*;

use super::*;
use crate::standalone_decoder::logits_with;

/// A recorded adapter and the model that it adapts.
struct RecordedAdapter<'a> {
    json: &'a Json,
    model: &'a Json,
}

impl RecordedAdapter<'_> {
    /// For each adapted weight: its name, its rank, and the names of its A and B tensors in PEFT's file.
    fn weights(&self) -> Vec<(String, u64, String, String)> {
        serde_json::from_value(self.json["weights"].clone()).unwrap()
    }

    /// Columns and rows of a weight. For tied embeddings, the output matrix is the embedding matrix.
    fn sizes(&self, weight: &str) -> [u64; 2] {
        let tensors = self.model["tensors"].as_array().unwrap();
        let tensor = tensors.iter().find(|tensor| tensor[0] == *weight).unwrap();
        serde_json::from_value(tensor[1].clone()).unwrap()
    }

    fn family(&self) -> &str {
        self.model["header"][0][2].as_str().unwrap()
    }

    fn write_gguf(&self, path: &Path) {
        let mut tensors = Vec::new();
        for (weight, rank, _, _) in self.weights() {
            let [columns, rows] = self.sizes(&weight);
            for (suffix, shape) in [("lora_a", [columns, rank]), ("lora_b", [rank, rows])] {
                let name = format!("{weight}.{suffix}");
                let values = weights(&name, &shape);
                tensors.push(Tensor {
                    name,
                    shape: shape.to_vec(),
                    kind: F32,
                    bytes: values.into_iter().flat_map(f32::to_le_bytes).collect(),
                });
            }
        }
        let alpha = self.json["alpha"].as_f64().unwrap() as f32;
        let header = [
            ("general.architecture", Value::Text(self.family())),
            ("general.type", Value::Text("adapter")),
            ("adapter.type", Value::Text("lora")),
            ("adapter.lora.alpha", Value::F32(alpha)),
        ];
        gguf::write(path, &header, &tensors);
    }

    fn write_peft(&self, path: &Path) {
        let mut tensors = Vec::new();
        for (weight, rank, lora_a, lora_b) in self.weights() {
            let [columns, rows] = self.sizes(&weight);
            let values = weights(&format!("{weight}.lora_a"), &[columns, rank]);
            tensors.push((lora_a, [rank, columns], values));
            let mut values = weights(&format!("{weight}.lora_b"), &[rank, rows]);
            let rotated = weight.contains("attn_q.") || weight.contains("attn_k.");
            if self.family() == "llama" && rotated {
                values = adjacent_to_half_pairs(&values, rank as usize, self.head_size());
            }
            tensors.push((lora_b, [rows, rank], values));
        }
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
            .into_iter()
            .map(|(name, shape, values)| {
                let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
                (name, shape.map(|size| size as usize).to_vec(), bytes)
            })
            .collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
            (name.as_str(), view)
        });
        ::safetensors::serialize_to_file(views, None, path).unwrap();
    }

    fn head_size(&self) -> usize {
        let pairs = self.model["header"].as_array().unwrap().iter();
        let mut pairs = pairs.filter(|pair| pair[0] == "llama.rope.dimension_count");
        pairs.next().unwrap()[2].as_u64().unwrap() as usize
    }

    /// Writes the adapter in PEFT's format or as GGUF, and opens it.
    fn open(&self, peft: bool, model: &ModelFile) -> Result<Adapter, GraphError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter");
        match peft {
            true => {
                self.write_peft(&path);
                open_peft(&path, &self.json["config"], model)
            }
            false => {
                self.write_gguf(&path);
                open_gguf(&path, model)
            }
        }
    }
}

fn open_gguf(path: &Path, model: &ModelFile) -> Result<Adapter, GraphError> {
    Adapter::from_gguf(&Gguf::open(path, FileAccess::Map).unwrap(), model)
}

fn open_peft(path: &Path, config: &Json, model: &ModelFile) -> Result<Adapter, GraphError> {
    let file = Safetensors::open(path, FileAccess::Map).unwrap();
    Adapter::from_peft(config.to_string().as_bytes(), &file, model)
}

/// The entries of `adapters.json`, each with its model: `(model, entry)`.
fn entries() -> Vec<(Json, Json)> {
    let Json::Array(entries) = common::recorded("adapters.json") else {
        panic!("adapters.json must contain a list");
    };
    let model = |name: &Json| recorded().into_iter().find(|model| model["name"] == *name);
    let with_model = |entry: Json| (model(&entry["model"]).unwrap(), entry);
    entries.into_iter().map(with_model).collect()
}

fn recorded_adapters<'a>(model: &'a Json, entry: &'a Json) -> Vec<RecordedAdapter<'a>> {
    let adapters = entry["adapters"].as_array().unwrap().iter();
    adapters
        .map(|json| RecordedAdapter { json, model })
        .collect()
}

fn load(file: &ModelFile) -> (Decoder, BlockPool) {
    load_on(file, DeviceOptions::default())
}

fn load_on(file: &ModelFile, devices: DeviceOptions) -> (Decoder, BlockPool) {
    let options = SessionOptions {
        devices,
        ..SessionOptions::new(common::onnxruntime())
    };
    let decoder = Decoder::load(file, &options, 64, BLOCKS, BLOCK_TOKENS, &|_| ()).unwrap();
    (decoder, BlockPool::new(BLOCKS, BLOCK_TOKENS))
}

fn tokens(model: &Json) -> Vec<TokenId> {
    serde_json::from_value(model["tokens"].clone()).unwrap()
}

#[test]
fn logits_match_peft_for_either_format_of_adapter_and_model() {
    for (model, entry) in entries() {
        let scales = recorded_adapters(&model, &entry);
        let scales = scales
            .iter()
            .map(|adapter| adapter.json["scale"].as_f64().unwrap() as f32);
        let scales = AdapterScales::new(scales.enumerate());
        for (peft, hub) in [(false, false), (true, false), (false, true), (true, true)] {
            let folder = tempfile::tempdir().unwrap();
            let file = match hub {
                true => open_folder(folder.path(), &model, &model["config"], false).unwrap(),
                false => open(&write(folder.path(), &model)).unwrap(),
            };
            let adapters = recorded_adapters(&model, &entry);
            let adapters = adapters
                .iter()
                .map(|adapter| adapter.open(peft, &file).unwrap())
                .collect();
            let file = file.with_adapters(adapters, None).unwrap();
            let (mut decoder, mut pool) = load(&file);
            let tokens = tokens(&model);
            let whole = logits_with(&mut decoder, &mut pool, &tokens, &[64], &scales);
            let mut difference: f32 = 0.0;
            for (position, expected) in entry["logits"].as_object().unwrap() {
                let expected: Vec<f32> = serde_json::from_value(expected.clone()).unwrap();
                let actual = &whole[position.parse::<usize>().unwrap()];
                assert_eq!(actual.len(), expected.len());
                for (left, right) in actual.iter().zip(&expected) {
                    assert!(left.is_finite());
                    difference = difference.max((left - right).abs());
                }
            }
            let name = &entry["model"];
            // These adapters contribute more to the activations than the models' own weights, so rounding errors are
            // larger.
            assert!(
                difference <= 2.0 * MAX_DIFFERENCE,
                "{name} {peft} {hub}: {difference}"
            );
            let chunked = logits_with(&mut decoder, &mut pool, &tokens, &[1, 9, 3], &scales);
            assert!(whole == chunked, "{name} in chunks");
            let two_devices = DeviceOptions {
                tensor_split: vec![1.0, 1.0],
                ..DeviceOptions::default()
            };
            let (mut decoder, mut pool) = load_on(&file, two_devices);
            let split = logits_with(&mut decoder, &mut pool, &tokens, &[64], &scales);
            assert!(whole == split, "{name} in two sessions");
        }
    }
}

#[test]
fn sequences_with_different_adapters_in_one_batch_change_no_bit() {
    let (model, entry) = entries().swap_remove(2);
    let folder = tempfile::tempdir().unwrap();
    let plain = open(&write(folder.path(), &model)).unwrap();
    let adapters = recorded_adapters(&model, &entry);
    let adapters = adapters
        .iter()
        .map(|adapter| adapter.open(false, &plain).unwrap())
        .collect();
    let file = plain.clone().with_adapters(adapters, None).unwrap();
    let (mut decoder, mut pool) = load(&file);
    let tokens = tokens(&model);
    let scales = [
        vec![],
        vec![(0, 1.0)],
        vec![(1, 0.5)],
        vec![(0, -0.5), (1, 1.0)],
    ];
    let scales = scales.map(AdapterScales::new);
    let alone = scales
        .each_ref()
        .map(|scales| logits_with(&mut decoder, &mut pool, &tokens, &[64], scales));
    let chunks = scales.iter().zip(0..).map(|(scales, number)| Chunk {
        sequence: SequenceId(number),
        tokens: tokens.clone(),
        draft_tokens: 0,
        past: 0,
        blocks: (0..2).map(|_| pool.allocate().unwrap()).collect(),
        logits: WantedRows::All,
        hidden: WantedRows::None,
        adapters: scales.clone(),
    });
    let plan = StepPlan {
        copies: Vec::new(),
        chunks: chunks.collect(),
    };
    let mut outputs = decoder.outputs();
    decoder.run(&plan, &mut outputs).unwrap();
    let together: Vec<Vec<f32>> = outputs.logits.rows().map(<[f32]>::to_vec).collect();
    assert!(together == alone.concat());
    assert!((1..4).all(|index| alone[index] != alone[index - 1]));
    let (mut decoder, mut pool) = load(&plain);
    assert!(alone[0] == logits(&mut decoder, &mut pool, &tokens, &[64]));
}

#[test]
fn only_adapted_weights_are_read_from_the_base_model() {
    let (model, entry) = entries().swap_remove(1);
    let (changed, other) = ("blk.1.attn_q.weight", "blk.1.attn_k.weight");
    // Opens the model with other values of these weights.
    let with_other_values = |names: &[&str]| {
        let mut model = model.clone();
        for tensor in model["tensors"].as_array_mut().unwrap() {
            let name = tensor[0].as_str().unwrap().to_owned();
            if names.contains(&&*name) {
                let shape: Vec<u64> = serde_json::from_value(tensor[1].clone()).unwrap();
                let values = weights(&format!("another {name}"), &shape);
                tensor.as_array_mut().unwrap().push(values.into());
            }
        }
        let folder = tempfile::tempdir().unwrap();
        open(&write(folder.path(), &model)).unwrap()
    };
    let recorded = recorded_adapters(&model, &entry).swap_remove(0);
    let logits = |file: ModelFile, base: Option<&ModelFile>| {
        let adapter = recorded.open(false, &file).unwrap();
        let (mut decoder, mut pool) = load(&file.with_adapters(vec![adapter], base).unwrap());
        let scales = AdapterScales::new([(0, 1.0)]);
        logits_with(&mut decoder, &mut pool, &tokens(&model), &[64], &scales)
    };
    let with_base = logits(
        with_other_values(&[]),
        Some(&with_other_values(&[changed, other])),
    );
    assert!(with_base == logits(with_other_values(&[changed]), None));
    let another = entries().swap_remove(0).0;
    let folder = tempfile::tempdir().unwrap();
    let another = open(&write(folder.path(), &another)).unwrap();
    let adapted = with_other_values(&[]).with_adapters(Vec::new(), Some(&another));
    assert_eq!(
        adapted.unwrap_err().to_string(),
        "the base model has a different architecture"
    );
}

#[test]
fn unsupported_and_mismatched_adapters_are_rejected_by_name() {
    let (model, entry) = entries().swap_remove(0);
    let folder = tempfile::tempdir().unwrap();
    let file = open(&write(folder.path(), &model)).unwrap();
    let recorded = recorded_adapters(&model, &entry).swap_remove(0);
    let path = folder.path().join("adapter");

    let header = |changes: &[(&'static str, Value<'static>)]| {
        let mut header = vec![
            ("general.architecture", Value::Text("llama")),
            ("general.type", Value::Text("adapter")),
            ("adapter.type", Value::Text("lora")),
        ];
        header.retain(|(key, _)| changes.iter().all(|(other, _)| key != other));
        header.extend(changes.iter().cloned());
        header
    };
    let pair = |weight: &str, lora_a: [u64; 2], lora_b: [u64; 2]| {
        [("lora_a", lora_a), ("lora_b", lora_b)]
            .map(|(suffix, shape)| (format!("{weight}.{suffix}"), shape))
    };
    let gguf = |changes: &[(&'static str, Value<'static>)], tensors: &[(String, [u64; 2])]| {
        let tensors = tensors.iter().map(|(name, shape)| Tensor {
            name: name.clone(),
            shape: shape.to_vec(),
            kind: F32,
            bytes: vec![0; 4 * (shape[0] * shape[1]) as usize],
        });
        gguf::write(&path, &header(changes), &tensors.collect::<Vec<_>>());
        open_gguf(&path, &file).unwrap_err().to_string()
    };
    let query = pair("blk.0.attn_q.weight", [64, 4], [4, 64]);
    for (changes, tensors, message) in [
        (
            vec![("general.architecture", Value::Text("qwen2"))],
            query.to_vec(),
            "\"general.architecture\" is \"qwen2\", not \"llama\"",
        ),
        (
            vec![("general.type", Value::Text("model"))],
            query.to_vec(),
            "\"general.type\" is \"model\", not \"adapter\"",
        ),
        (vec![], vec![], "the adapter has no tensors"),
        (
            vec![],
            query[..1].to_vec(),
            "the tensor \"blk.0.attn_q.weight.lora_b\" is missing",
        ),
        (
            vec![],
            vec![("blk.0.attn_q.weight".to_owned(), [64, 64])],
            "the tensor \"blk.0.attn_q.weight\" of an adapter is not supported",
        ),
        (
            vec![],
            pair("blk.0.attn_q.weight", [32, 4], [4, 64]).to_vec(),
            "the tensor \"blk.0.attn_q.weight.lora_a\" has the shape [32, 4], not [64, 4]",
        ),
        (
            vec![],
            pair("blk.0.attn_q.weight", [64, 4], [5, 64]).to_vec(),
            "the tensor \"blk.0.attn_q.weight.lora_b\" has the shape [5, 64], not [4, 64]",
        ),
        (
            vec![],
            pair("blk.7.attn_q.weight", [64, 4], [4, 64]).to_vec(),
            "an adapter of \"blk.7.attn_q.weight\", which the model does not have, is not supported",
        ),
        (
            vec![],
            pair("token_embd.weight", [64, 4], [4, 96]).to_vec(),
            "an adapter of \"token_embd.weight\" is not supported",
        ),
    ] {
        assert_eq!(gguf(&changes, &tensors), message);
    }

    recorded.write_peft(&path);
    for (field, value, message) in [
        ("peft_type", json!("LOHA"), "the kind of adapter \"LOHA\""),
        ("use_dora", json!(true), "DoRA (use_dora)"),
        ("bias", json!("all"), "the bias \"all\""),
        ("modules_to_save", json!(["lm_head"]), "modules_to_save"),
        (
            "init_lora_weights",
            json!("pissa"),
            "the init_lora_weights \"pissa\"",
        ),
        (
            "alpha_pattern",
            json!({"q_.*": 3}),
            "the alpha_pattern \"q_.*\"",
        ),
    ] {
        let mut config = recorded.json["config"].clone();
        config[field] = value;
        let error = open_peft(&path, &config, &file).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("adapter_config.json: {message} is not supported")
        );
    }
    let error = open_peft(&path, &json!({}), &file).unwrap_err().to_string();
    assert!(
        error.starts_with("adapter_config.json: missing field"),
        "{error}"
    );
    let view = TensorView::new(Dtype::I64, vec![1], &[0; 8]).unwrap();
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    ::safetensors::serialize_to_file([(name, view)], None, &path).unwrap();
    let error = open_peft(&path, &recorded.json["config"], &file).unwrap_err();
    let expected = format!("the tensor \"{name}\" of an adapter is not supported");
    assert_eq!(error.to_string(), expected);
}

/// A model, and the bytes of an adapter file for it in both formats.
struct ValidFiles {
    file: ModelFile,
    gguf: Vec<u8>,
    peft: Vec<u8>,
    config: Json,
}

static VALID_FILES: LazyLock<ValidFiles> = LazyLock::new(|| {
    let (model, entry) = entries().swap_remove(2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter");
    let recorded = recorded_adapters(&model, &entry).swap_remove(0);
    let bytes = |write: &dyn Fn(&Path)| {
        write(&path);
        std::fs::read(&path).unwrap()
    };
    ValidFiles {
        file: open(&write(folder.path(), &model)).unwrap(),
        gguf: bytes(&|path| recorded.write_gguf(path)),
        peft: bytes(&|path| recorded.write_peft(path)),
        config: recorded.json["config"].clone(),
    }
});

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn modified_adapter_files_cause_no_panic(
        bytes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in prop::option::of(any::<prop::sample::Index>()),
        in_header in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter");
        let write_modified = |whole: &[u8]| {
            let mut whole = whole.to_vec();
            let max_offset = if in_header { 1000 } else { whole.len() };
            for (index, byte) in &bytes {
                let offset = index.index(max_offset.min(whole.len()));
                whole[offset] = *byte;
            }
            if let Some(length) = length {
                whole.truncate(length.index(whole.len()));
            }
            std::fs::write(&path, whole).unwrap();
        };
        let ValidFiles { file, gguf, peft, config } = &*VALID_FILES;
        write_modified(gguf);
        if let Ok(gguf) = Gguf::open(&path, FileAccess::Read) {
            let _ = Adapter::from_gguf(&gguf, file);
        }
        write_modified(peft);
        if let Ok(tensors) = Safetensors::open(&path, FileAccess::Read) {
            let _ = Adapter::from_peft(config.to_string().as_bytes(), &tensors, file);
        }
    }
}
