//! Translates tensor names of Hugging Face transformers to GGUF names.

use crate::graph::families::{OUTPUT, OUTPUT_NORM, ROUTER, TOKEN_EMBEDDING};

/// Tensors of a decoder's layer: the name in transformers, and in GGUF.
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

/// Tensors of an expert: the usual name, Mixtral's, and GGUF's.
const EXPERT_TENSORS: [(&str, &str, &str); 3] = [
    ("gate_proj", "w1", "ffn_gate"),
    ("up_proj", "w3", "ffn_up"),
    ("down_proj", "w2", "ffn_down"),
];

/// Stacked tensors of all experts, whose names have no `.weight` suffix: the name in transformers, and in GGUF.
const STACKED_EXPERT_TENSORS: [(&str, &str); 2] = [
    ("mlp.experts.gate_up_proj", "ffn_gate_up_exps"),
    ("mlp.experts.down_proj", "ffn_down_exps"),
];

/// Translates a decoder's tensor name to the GGUF name. Returns `None` for tensors that are not needed, and unknown
/// names unchanged.
pub(in super::super) fn gguf_name(family: &str, tied_output: bool, name: &str) -> Option<String> {
    let gguf_name = match name {
        "model.embed_tokens.weight" => TOKEN_EMBEDDING,
        "model.norm.weight" => OUTPUT_NORM,
        "lm_head.weight" if tied_output => return None,
        "lm_head.weight" => OUTPUT,
        // Older files contain RoPE frequencies, which ortolan computes from the configuration.
        _ if name.ends_with("rotary_emb.inv_freq") => return None,
        _ => return Some(layer_tensor(family, name).unwrap_or_else(|| name.to_owned())),
    };
    Some(gguf_name.to_owned())
}

fn layer_tensor(family: &str, name: &str) -> Option<String> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    if let Some((_, stack)) = STACKED_EXPERT_TENSORS
        .iter()
        .find(|(name, _)| *name == rest)
    {
        return Some(format!("blk.{layer}.{stack}.weight"));
    }
    let (part, kind) = rest.rsplit_once('.')?;
    if let Some(part) = expert_part(part) {
        return Some(format!("blk.{layer}.{part}.{kind}"));
    }
    // Gemma 2 and 3 apply this norm to the output of attention; other families apply it to the input of the
    // feed-forward network.
    let gguf_part = match (part, family) {
        ("post_attention_layernorm", "gemma2" | "gemma3") => "post_attention_norm",
        ("post_attention_layernorm", _) => "ffn_norm",
        _ => LAYER_TENSORS.iter().find(|(name, _)| *name == part)?.1,
    };
    Some(format!("blk.{layer}.{gguf_part}.{kind}"))
}

/// Translates the name of an expert's tensor: `mlp.experts.5.gate_proj` becomes `ffn_gate.5`.
fn expert_part(part: &str) -> Option<String> {
    let (module, part) = part.split_once(".experts.")?;
    let (expert, part) = part.split_once('.')?;
    let mut known = EXPERT_TENSORS.iter();
    let gguf_part = known.find_map(|(usual, mixtral, gguf_part)| {
        let name = match module {
            "mlp" => usual,
            "block_sparse_moe" => mixtral,
            _ => return None,
        };
        (*name == part).then_some(gguf_part)
    })?;
    Some(format!("{gguf_part}.{expert}"))
}
