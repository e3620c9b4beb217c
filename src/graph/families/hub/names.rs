//! The hub's names of tensors → GGUF's.

use crate::graph::families::{OUTPUT, OUTPUT_NORM, ROUTER, TOKEN_EMBEDDING};

/// Tensors of a decoder's layer: the hub's name, and GGUF's.
const LAYER_TENSORS: [(&str, &str); 16] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", ROUTER),
    ("block_sparse_moe.gate", ROUTER),
];

/// Of an expert: the hub's name, Mixtral's, and GGUF's.
const EXPERT_TENSORS: [(&str, &str, &str); 3] = [
    ("gate_proj", "w1", "ffn_gate"),
    ("up_proj", "w3", "ffn_up"),
    ("down_proj", "w2", "ffn_down"),
];

/// Of all experts, without a word for what kind of tensor it is: the hub's name, and GGUF's.
const STACKS: [(&str, &str); 2] = [
    ("mlp.experts.gate_up_proj", "ffn_gate_up_exps"),
    ("mlp.experts.down_proj", "ffn_down_exps"),
];

/// The name in GGUF of a decoder's tensor; its own, if it is none that a decoder has; none for what is not needed.
pub(in super::super) fn standard_name(
    family: &str,
    tied_output: bool,
    name: &str,
) -> Option<String> {
    let standard = match name {
        "model.embed_tokens.weight" => TOKEN_EMBEDDING,
        "model.norm.weight" => OUTPUT_NORM,
        "lm_head.weight" if tied_output => return None,
        "lm_head.weight" => OUTPUT,
        // Older files keep the frequencies, which follow from the configuration.
        _ if name.ends_with("rotary_emb.inv_freq") => return None,
        _ => return Some(layer_tensor(family, name).unwrap_or_else(|| name.to_owned())),
    };
    Some(standard.to_owned())
}

fn layer_tensor(family: &str, name: &str) -> Option<String> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    if let Some((_, stack)) = STACKS.iter().find(|(hub, _)| *hub == rest) {
        return Some(format!("blk.{layer}.{stack}.weight"));
    }
    let (part, kind) = rest.rsplit_once('.')?;
    if let Some(part) = expert_part(part) {
        return Some(format!("blk.{layer}.{part}.{kind}"));
    }
    // What stands behind attention's sum in the older families stands before it in the newer ones.
    let standard = match (part, family) {
        ("post_attention_layernorm", "gemma2" | "gemma3") => "post_attention_norm",
        ("post_attention_layernorm", _) => "ffn_norm",
        _ => LAYER_TENSORS.iter().find(|(hub, _)| *hub == part)?.1,
    };
    Some(format!("blk.{layer}.{standard}.{kind}"))
}

/// GGUF's name of what is the hub's `mlp.experts.5.gate_proj`.
fn expert_part(part: &str) -> Option<String> {
    let (of, part) = part.split_once(".experts.")?;
    let (expert, part) = part.split_once('.')?;
    let mut known = EXPERT_TENSORS.iter();
    let standard = known.find_map(|(usual, mixtral, standard)| {
        let hub = match of {
            "mlp" => usual,
            "block_sparse_moe" => mixtral,
            _ => return None,
        };
        (*hub == part).then_some(standard)
    })?;
    Some(format!("{standard}.{expert}"))
}
