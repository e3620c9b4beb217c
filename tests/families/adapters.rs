//! LoRA adapters upon the models of the families, in both spellings of either, against what PEFT computes
//! (`tests/golden/adapters.py`); who has what company; what is refused.

use std::sync::LazyLock;

use ortolan::engine::{AdapterScales, Chunk, ModelRunner, SequenceId, StepPlan, WantedRows};
use ortolan::graph::Adapter;
use ortolan::runtime::DeviceOptions;
use proptest::prelude::*;

use super::*;
use crate::bare::logits_with;

/// What is told of an adapter.
struct Told<'a> {
    json: &'a Json,
    /// The model that it is for.
    model: &'a Json,
}

impl Told<'_> {
    /// The weights with their ranks and the names of both tensors in PEFT's file.
    fn weights(&self) -> Vec<(String, u64, String, String)> {
        serde_json::from_value(self.json["weights"].clone()).unwrap()
    }

    /// Columns and rows of a weight.
    fn sizes(&self, weight: &str) -> [u64; 2] {
        // A tied model's output matrix is its embedding matrix.
        let tensors = self.model["tensors"].as_array().unwrap();
        let found = tensors.iter().find(|tensor| tensor[0] == *weight).unwrap();
        serde_json::from_value(found[1].clone()).unwrap()
    }

    fn family(&self) -> &str {
        self.model["header"][0][2].as_str().unwrap()
    }

    fn write_gguf(&self, path: &Path) {
        let mut tensors = Vec::new();
        for (weight, rank, _, _) in self.weights() {
            let [columns, rows] = self.sizes(&weight);
            for (end, shape) in [("lora_a", [columns, rank]), ("lora_b", [rank, rows])] {
                let name = format!("{weight}.{end}");
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
        for (weight, rank, down, up) in self.weights() {
            let [columns, rows] = self.sizes(&weight);
            let values = weights(&format!("{weight}.lora_a"), &[columns, rank]);
            tensors.push((down, [rank, columns], values));
            let mut values = weights(&format!("{weight}.lora_b"), &[rank, rows]);
            let rotated = weight.contains("attn_q.") || weight.contains("attn_k.");
            if self.family() == "llama" && rotated {
                values = in_halves(&values, rank as usize, self.head_size());
            }
            tensors.push((up, [rows, rank], values));
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

    /// The adapter by way of a file of either kind.
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
    Adapter::of_gguf(&Gguf::open(path, FileAccess::Map).unwrap(), model)
}

fn open_peft(path: &Path, config: &Json, model: &ModelFile) -> Result<Adapter, GraphError> {
    let file = Safetensors::open(path, FileAccess::Map).unwrap();
    Adapter::of_peft(config.to_string().as_bytes(), &file, model)
}

/// The recorded entries, each with its model.
fn entries() -> Vec<(Json, Json)> {
    let Json::Array(entries) = common::recorded("adapters.json") else {
        panic!("a list was recorded");
    };
    let model = |name: &Json| recorded().into_iter().find(|model| model["name"] == *name);
    let with_model = |entry: Json| (model(&entry["model"]).unwrap(), entry);
    entries.into_iter().map(with_model).collect()
}

fn told<'a>(model: &'a Json, entry: &'a Json) -> Vec<Told<'a>> {
    let adapters = entry["adapters"].as_array().unwrap().iter();
    adapters.map(|json| Told { json, model }).collect()
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
fn the_logits_are_pefts_in_either_spelling_of_adapter_and_model() {
    for (model, entry) in entries() {
        let scales = told(&model, &entry);
        let scales = scales
            .iter()
            .map(|told| told.json["scale"].as_f64().unwrap() as f32);
        let scales = AdapterScales::new(scales.enumerate());
        for (peft, hub) in [(false, false), (true, false), (false, true), (true, true)] {
            let folder = tempfile::tempdir().unwrap();
            let file = match hub {
                true => open_folder(folder.path(), &model, &model["config"], false).unwrap(),
                false => open(&write(folder.path(), &model)).unwrap(),
            };
            let adapters = told(&model, &entry);
            let adapters = adapters
                .iter()
                .map(|told| told.open(peft, &file).unwrap())
                .collect();
            let file = file.with_adapters(adapters, None).unwrap();
            let (mut decoder, mut pool) = load(&file);
            let tokens = tokens(&model);
            let whole = logits_with(&mut decoder, &mut pool, &tokens, &[64], &scales);
            let mut most: f32 = 0.0;
            for (position, wanted) in entry["logits"].as_object().unwrap() {
                let wanted: Vec<f32> = serde_json::from_value(wanted.clone()).unwrap();
                let found = &whole[position.parse::<usize>().unwrap()];
                assert_eq!(found.len(), wanted.len());
                for (left, right) in found.iter().zip(&wanted) {
                    assert!(left.is_finite());
                    most = most.max((left - right).abs());
                }
            }
            let name = &entry["model"];
            // Adapters here are stronger than their models.
            assert!(most <= 2.0 * MOST_DIFFERENCE, "{name} {peft} {hub}: {most}");
            let cut = logits_with(&mut decoder, &mut pool, &tokens, &[1, 9, 3], &scales);
            assert!(whole == cut, "{name} in chunks");
            let divided = DeviceOptions {
                shares: vec![1.0, 1.0],
                ..DeviceOptions::default()
            };
            let (mut decoder, mut pool) = load_on(&file, divided);
            let divided = logits_with(&mut decoder, &mut pool, &tokens, &[64], &scales);
            assert!(whole == divided, "{name} in two sessions");
        }
    }
}

#[test]
fn sequences_with_other_adapters_change_no_bit_and_those_without_none() {
    let (model, entry) = entries().swap_remove(2);
    let folder = tempfile::tempdir().unwrap();
    let plain = open(&write(folder.path(), &model)).unwrap();
    let adapters = told(&model, &entry);
    let adapters = adapters
        .iter()
        .map(|told| told.open(false, &plain).unwrap())
        .collect();
    let file = plain.clone().with_adapters(adapters, None).unwrap();
    let (mut decoder, mut pool) = load(&file);
    let tokens = tokens(&model);
    let wishes = [
        vec![],
        vec![(0, 1.0)],
        vec![(1, 0.5)],
        vec![(0, -0.5), (1, 1.0)],
    ];
    let wishes = wishes.map(AdapterScales::new);
    let alone = wishes
        .each_ref()
        .map(|wish| logits_with(&mut decoder, &mut pool, &tokens, &[64], wish));
    let chunks = wishes.iter().zip(0..).map(|(wish, number)| Chunk {
        sequence: SequenceId(number),
        tokens: tokens.clone(),
        guessed: 0,
        past: 0,
        blocks: (0..2).map(|_| pool.take().unwrap()).collect(),
        logits: WantedRows::All,
        hidden: WantedRows::None,
        adapters: wish.clone(),
    });
    let plan = StepPlan {
        copies: Vec::new(),
        chunks: chunks.collect(),
    };
    let mut outputs = decoder.outputs();
    decoder.run(&plan, &mut outputs).unwrap();
    let together: Vec<Vec<f32>> = outputs.logits.rows().map(<[f32]>::to_vec).collect();
    assert!(together == alone.concat());
    assert!((1..4).all(|wish| alone[wish] != alone[wish - 1]));
    let (mut decoder, mut pool) = load(&plain);
    assert!(alone[0] == logits(&mut decoder, &mut pool, &tokens, &[64]));
}

#[test]
fn a_base_lends_the_weights_whose_products_adapters_change_and_no_other() {
    let (model, entry) = entries().swap_remove(1);
    let (changed, other) = ("blk.1.attn_q.weight", "blk.1.attn_k.weight");
    // The model with other values of these weights.
    let with = |names: &[&str]| {
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
    let told = told(&model, &entry).swap_remove(0);
    let logits = |file: ModelFile, base: Option<&ModelFile>| {
        let adapter = told.open(false, &file).unwrap();
        let (mut decoder, mut pool) = load(&file.with_adapters(vec![adapter], base).unwrap());
        let scales = AdapterScales::new([(0, 1.0)]);
        logits_with(&mut decoder, &mut pool, &tokens(&model), &[64], &scales)
    };
    let based = logits(with(&[]), Some(&with(&[changed, other])));
    assert!(based == logits(with(&[changed]), None));
    let another = entries().swap_remove(0).0;
    let folder = tempfile::tempdir().unwrap();
    let another = open(&write(folder.path(), &another)).unwrap();
    let refused = with(&[]).with_adapters(Vec::new(), Some(&another));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "its header is not that of the same model"
    );
}

#[test]
fn what_does_not_fit_the_model_or_is_not_computed_is_refused_by_name() {
    let (model, entry) = entries().swap_remove(0);
    let folder = tempfile::tempdir().unwrap();
    let file = open(&write(folder.path(), &model)).unwrap();
    let told = told(&model, &entry).swap_remove(0);
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
    let pair = |weight: &str, down: [u64; 2], up: [u64; 2]| {
        [("lora_a", down), ("lora_b", up)].map(|(end, shape)| (format!("{weight}.{end}"), shape))
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
        (vec![], vec![], "it has no tensors: it changes nothing"),
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

    told.write_peft(&path);
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
        let mut config = told.json["config"].clone();
        config[field] = value;
        let refused = open_peft(&path, &config, &file).unwrap_err().to_string();
        assert_eq!(
            refused,
            format!("adapter_config.json: {message} is not supported")
        );
    }
    let refused = open_peft(&path, &json!({}), &file).unwrap_err().to_string();
    assert!(
        refused.starts_with("adapter_config.json: missing field"),
        "{refused}"
    );
    let view = TensorView::new(Dtype::I64, vec![1], &[0; 8]).unwrap();
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    ::safetensors::serialize_to_file([(name, view)], None, &path).unwrap();
    let refused = open_peft(&path, &told.json["config"], &file).unwrap_err();
    let wanted = format!("the tensor \"{name}\" of an adapter is not supported");
    assert_eq!(refused.to_string(), wanted);
}

/// A model, and an adapter of it as the bytes of either kind of file.
struct Whole {
    file: ModelFile,
    gguf: Vec<u8>,
    peft: Vec<u8>,
    config: Json,
}

static WHOLE: LazyLock<Whole> = LazyLock::new(|| {
    let (model, entry) = entries().swap_remove(2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter");
    let told = told(&model, &entry).swap_remove(0);
    let bytes = |write: &dyn Fn(&Path)| {
        write(&path);
        std::fs::read(&path).unwrap()
    };
    Whole {
        file: open(&write(folder.path(), &model)).unwrap(),
        gguf: bytes(&|path| told.write_gguf(path)),
        peft: bytes(&|path| told.write_peft(path)),
        config: told.json["config"].clone(),
    }
});

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_alteration_of_a_file_makes_its_reader_panic(
        bytes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        end in prop::option::of(any::<prop::sample::Index>()),
        in_header in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter");
        let alter = |whole: &[u8]| {
            let mut whole = whole.to_vec();
            let most = if in_header { 1000 } else { whole.len() };
            for (place, byte) in &bytes {
                let place = place.index(most.min(whole.len()));
                whole[place] = *byte;
            }
            if let Some(end) = end {
                whole.truncate(end.index(whole.len()));
            }
            std::fs::write(&path, whole).unwrap();
        };
        let Whole { file, gguf, peft, config } = &*WHOLE;
        alter(gguf);
        if let Ok(gguf) = Gguf::open(&path, FileAccess::Read) {
            let _ = Adapter::of_gguf(&gguf, file);
        }
        alter(peft);
        if let Ok(tensors) = Safetensors::open(&path, FileAccess::Read) {
            let _ = Adapter::of_peft(config.to_string().as_bytes(), &tensors, file);
        }
    }
}
