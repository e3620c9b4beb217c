//! `config.json` of model folders.

use ortolan::file_bytes::FileAccess;
use ortolan::gguf::quant::QuantizeTarget;
use ortolan::graph::{MatmulOperator, ModelFile};
use ortolan::safetensors::Safetensors;
use serde_json::{Value, json};

use super::fuzzer::fuzz;
use super::mutations::mutated_json;
use super::{folder, recorded};

const HIDDEN: usize = 64;

/// A safetensors file with the tensors of a llama model of one layer.
fn weights() -> Vec<u8> {
    let square = vec![HIDDEN, HIDDEN];
    let mut tensors = vec![
        ("embed_tokens".to_owned(), vec![96, HIDDEN]),
        ("norm".to_owned(), vec![HIDDEN]),
    ];
    let norms = ["input_layernorm", "post_attention_layernorm"].map(|name| (name, vec![HIDDEN]));
    let matrices = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
    ];
    let gated = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"];
    let matrices = matrices.into_iter().chain(gated);
    let layer = norms
        .into_iter()
        .chain(matrices.map(|name| (name, square.clone())));
    tensors.extend(layer.map(|(name, shape)| (format!("layers.0.{name}"), shape)));
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * 2;
        let tensor = json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]});
        header.insert(format!("model.{name}.weight"), tensor);
    }
    let header = Value::from(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &vec![0; end]].concat()
}

#[test]
fn modified_configurations_cause_no_panic() {
    let llama = json!({
        "model_type": "llama", "num_hidden_layers": 1, "hidden_size": HIDDEN, "intermediate_size": HIDDEN,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 96, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64},
    });
    let mut valid = vec![llama; 20];
    for model in recorded("families.json").as_array().unwrap() {
        valid.extend(["config", "hub_config"].map(|key| model[key].clone()));
    }
    let kinds = [
        "linear", "yarn", "llama3", "longrope", "default", "qwen2", "bert",
    ]
    .map(Value::from);
    let numbers = [2, 3, 8, 64, 1 << 24].map(Value::from);
    let more = kinds.into_iter().chain(numbers).collect();
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, weights()).unwrap();
    fuzz(
        "a configuration",
        500,
        32 << 20,
        mutated_json(valid, more),
        |config| {
            let weights = Safetensors::open(&path, FileAccess::Map).unwrap();
            let config = config.to_string();
            let opened =
                ModelFile::from_folder(folder.path().to_owned(), config.as_bytes(), vec![weights]);
            if let Ok(model) = opened {
                let model = model.quantized_to(QuantizeTarget::Q8_0);
                for matmul in [MatmulOperator::Ortolan, MatmulOperator::Contrib] {
                    model.graph(matmul, 64, &|_| ());
                }
            }
        },
    );
}
