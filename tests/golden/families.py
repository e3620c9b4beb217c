"""Writes families.json: reference logits of every decoder family.

Each family has tiny models whose weights follow a formula of the tensor names. A test builds the same GGUF file from
`header` and `tensors`, or the same folder from `config`, so no weights are stored. The logits are computed by the
classes of Hugging Face `transformers`. The function `forward` below computes them independently, in numpy and float64,
from the papers and the content of the GGUF file; the script fails if the two differ, or if disabling a feature that a
model tests does not change its logits.

    pip install numpy==2.4.6 torch==2.15.0 transformers==5.24.0
    python families.py > families.json

Prints to standard error, for each model, the difference of both computations and the effect of each feature.

An entry has
    name
    header      metadata of the GGUF file except the tokenizer: [key, type, value]
    unwritten   keys of the header that llama.cpp's converter does not write
    unread      keys of the header that llama.cpp ignores
    tensors     [name, shape], the contiguous dimension first; RoPE frequency divisors also have their values
    config      the config.json that transformers 5 saves
    hub_config  the same configuration in the format of transformers 4, which most published models have
    context     the context size to set, which selects the divisors of a LongRoPE model
    tokens      the input
    logits      next-token logits at some positions of the input, to 6 significant digits

The formula: a tensor's seed is the 64-bit FNV-1a hash of its name in the GGUF file. Its value i, in the order of the file,
comes from output i of SplitMix64 started at the seed: u, the 24 highest bits divided by 2^24, gives c = u - 1/2. The
value, computed in float64 and rounded to float32, is
    1 + c * 0.5               in a norm (its name contains "norm")
    c * 0.4                   in a bias
    c * 2                     in token_embd.weight
    c * sqrt(12 / columns)    in any other matrix or stack of matrices; columns is the contiguous dimension
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np

TOKENS = [(7 * i * i + 3 * i + 5) % 96 for i in range(40)]
POSITIONS = [0, 1, 7, 8, 9, 20, 39]
CONTEXT = 48
MAX_DIFFERENCE = 1e-4  # between the two implementations
MIN_CHANGE = 0.05  # of the logits when a feature is disabled
UNLIMITED = 10**9


# ---- The mathematics ----


def forward(
    weights, tokens, layers, heads, key_value_heads, head_size, epsilon, rotated, base, attention_scale,
    adjacent_pairs=False, local_rope_base=None, linear=1.0, divisors=None, yarn=None, gain=1.0, window=UNLIMITED, period=1,
    attention_cap=None, final_cap=None, embedding_scale=1.0, activation="silu", used_experts=0, normalizes_weights=True,
):  # fmt: skip
    """The logits after every token, [tokens, vocabulary], from the weights of the GGUF file.

    RoPE (Su et al. 2021) rotates the first `rotated` of the `head_size` dimensions in pairs: of adjacent dimensions, or of
    dimensions half of `rotated` apart. The rows of query and key in the file are ordered for adjacent pairs in the
    architecture "llama", and for halves in all others.
        linear     position interpolation (Chen et al. 2023): all frequencies are divided by it
        divisors   one for each frequency: Llama 3.1's smoothed ones, LongRoPE's short or long ones
        yarn       (factor, original context) (Peng et al. 2023)
        gain       scales cosine and sine, and thus attention scores by its square; it does not affect dimensions that
                   are not rotated. YaRN: 1 + ln(factor)/10. LongRoPE: sqrt(1 + ln(s)/ln(original)), where s is the
                   longest context divided by the original one; also with short divisors.
    A token attends to itself and the window - 1 tokens before it. If `period` > 1, every period-th layer is global (no
    window); the other layers rotate with `local_rope_base`, if it is set, without any scaling.
    """
    positions = np.arange(len(tokens))

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weights[name + ".weight"]

    def project(x, name):
        return x @ weights[name + ".weight"].T + weights.get(name + ".bias", 0.0)

    def split(x, count):  # [tokens, count * head size] -> [count, tokens, head size]
        return x.reshape(len(tokens), count, head_size).transpose(1, 0, 2)

    def cap(x, limit):
        return limit * np.tanh(x / limit) if limit else x

    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def gate(x):
        if activation == "silu":
            return x / (1 + np.exp(-x))
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def angles(local):
        half = np.arange(rotated // 2)
        if local and local_rope_base:
            return np.outer(positions, local_rope_base ** (-2 * half / rotated))
        frequencies = base ** (-2 * half / rotated) / linear
        if divisors is not None:
            frequencies = frequencies / divisors
        if yarn:  # keeps frequencies with 32 or more turns in the original context; divides those with at most one
            factor, original = yarn
            low, high = (
                rotated * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (32, 1)
            )
            low, high = max(math.floor(low), 0), min(math.ceil(high), rotated - 1)
            divided = np.clip((half - low) / max(high - low, 0.001), 0, 1)
            frequencies = frequencies * (1 - divided) + frequencies / factor * divided
        return np.outer(positions, frequencies)

    def rotate(x, angle):
        half = np.arange(rotated // 2)
        first, second = (2 * half, 2 * half + 1) if adjacent_pairs else (half, half + rotated // 2)
        cosine, sine = gain * np.cos(angle), gain * np.sin(angle)
        result = x.copy()
        result[..., first] = x[..., first] * cosine - x[..., second] * sine
        result[..., second] = x[..., first] * sine + x[..., second] * cosine
        return result

    def attention(x, block, local):
        if f"{block}.attn_qkv.weight" in weights:  # rows of all queries, then of all keys, then of all values
            query, key, value = np.split(
                project(x, f"{block}.attn_qkv"), np.cumsum([heads, key_value_heads]) * head_size, axis=-1
            )
        else:
            query, key, value = (project(x, f"{block}.attn_{letter}") for letter in "qkv")
        query, key, value = split(query, heads), split(key, key_value_heads), split(value, key_value_heads)
        if f"{block}.attn_q_norm.weight" in weights:  # for each head, before RoPE
            query, key = norm(query, f"{block}.attn_q_norm"), norm(key, f"{block}.attn_k_norm")
        query, key = rotate(query, angles(local)), rotate(key, angles(local))
        key, value = (np.repeat(each, heads // key_value_heads, axis=0) for each in (key, value))
        scores = cap(query @ key.transpose(0, 2, 1) * attention_scale, attention_cap)  # softcap before the mask
        distance = positions[:, None] - positions
        visible = (distance >= 0) & (distance < (window if local else UNLIMITED))
        attended = softmax(np.where(visible, scores, -np.inf)) @ value
        return project(attended.transpose(1, 0, 2).reshape(len(tokens), -1), f"{block}.attn_output")

    def experts(x, block):
        # Softmax over all experts, then top-k; normalized weights equal a softmax over the logits of the top-k.
        all_weights = softmax(project(x, f"{block}.ffn_gate_inp"))
        result = np.zeros_like(x)
        for t, expert_weights in enumerate(all_weights):
            selected = np.argsort(-expert_weights)[:used_experts]
            total = expert_weights[selected].sum() if normalizes_weights else 1.0
            for expert in selected:
                into, up, down = (weights[f"{block}.ffn_{part}_exps.weight"][expert] for part in ("gate", "up", "down"))
                result[t] += expert_weights[expert] / total * (down @ (gate(into @ x[t]) * (up @ x[t])))
        return result

    def feed_forward(x, block):
        if f"{block}.ffn_gate_inp.weight" in weights:
            return experts(x, block)
        if f"{block}.ffn_gate.weight" in weights:
            gated, up = project(x, f"{block}.ffn_gate"), project(x, f"{block}.ffn_up")
        else:  # the gate's rows come first
            gated, up = np.split(project(x, f"{block}.ffn_up"), 2, axis=-1)
        return project(gate(gated) * up, f"{block}.ffn_down")

    def post_norm(x, name):  # Gemma 2 and 3 have a norm after attention and after the feed-forward network
        return norm(x, name) if name + ".weight" in weights else x

    x = weights["token_embd.weight"][tokens] * embedding_scale
    for n in range(layers):
        block = f"blk.{n}"
        local = period == 1 or (n + 1) % period != 0
        x = x + post_norm(attention(norm(x, f"{block}.attn_norm"), block, local), f"{block}.post_attention_norm")
        x = x + post_norm(feed_forward(norm(x, f"{block}.ffn_norm"), block), f"{block}.post_ffw_norm")
    output = "output" if "output.weight" in weights else "token_embd"
    return cap(project(norm(x, "output_norm"), output), final_cap)


def parameters(header, weights):
    """The arguments of `forward`, derived from a GGUF file."""
    architecture = header["general.architecture"]

    def get(key, otherwise=None):
        return header.get(f"{architecture}.{key}", otherwise)

    layers, hidden, heads = get("block_count"), get("embedding_length"), get("attention.head_count")
    head_size = get("attention.key_length", hidden // heads)
    found = {
        "layers": layers,
        "heads": heads,
        "key_value_heads": get("attention.head_count_kv", heads),
        "head_size": head_size,
        "epsilon": get("attention.layer_norm_rms_epsilon"),
        "rotated": get("rope.dimension_count", head_size),
        "base": get("rope.freq_base", 10000.0),
        "attention_scale": head_size**-0.5,
        "adjacent_pairs": architecture == "llama",
        "gain": get("rope.scaling.attn_factor", 1.0),
        "window": get("attention.sliding_window") or UNLIMITED,
        "attention_cap": get("attn_logit_softcapping"),
        "final_cap": get("final_logit_softcapping"),
        "used_experts": get("expert_used_count", 0),
    }
    factor = get("rope.scaling.factor", 1.0)
    if get("rope.scaling.type") == "yarn":
        found["yarn"] = factor, get("rope.scaling.original_context_length")
        found["gain"] *= 1 + 0.1 * math.log(factor)
    else:
        found["linear"] = factor
    if "rope_factors_long.weight" in weights:
        length = "long" if CONTEXT > get("rope.scaling.original_context_length") else "short"
        found["divisors"] = weights[f"rope_factors_{length}.weight"]
    else:
        found["divisors"] = weights.get("rope_freqs.weight")
    if architecture.startswith("gemma"):
        # Not rounded; the original model multiplies bfloat16 values by a root that is rounded to bfloat16.
        found |= {"embedding_scale": math.sqrt(hidden), "activation": "gelu"}
    if architecture in ("gemma2", "gemma3"):
        found["period"] = {"gemma2": 2, "gemma3": 6}[architecture]
        if layers == {"gemma2": 46, "gemma3": 62}[architecture]:  # the 27B models; the file does not contain this value
            found["attention_scale"] = (hidden // heads) ** -0.5
    if architecture == "gemma3":
        found["local_rope_base"] = get("rope.freq_base_swa", 10000.0)
    return found


# ---- The models ----


def model(name, architecture, model_type, disabled, **config):
    """`disabled` maps the features that the model tests to arguments of `forward` that disable them."""
    common = {
        "architectures": [architecture + "ForCausalLM"],
        "model_type": model_type,
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return name, common | config, disabled


def llama(name, disabled, **config):
    return model(name, "Llama", "llama", disabled, **config)


def gemma(name, generation, disabled, **config):
    """The hidden size is not a square, so that rounding its root matters, and is not heads * head_dim."""
    common = {"hidden_size": 96, "head_dim": 16, "rms_norm_eps": 1e-6, "tie_word_embeddings": True}
    common["hidden_act" if generation == "Gemma" else "hidden_activation"] = "gelu_pytorch_tanh"
    disabled = {"scale of embedding": {"embedding_scale": 1.0}, "gelu": {"activation": "silu"}} | disabled
    model_type = "gemma3_text" if generation == "Gemma3" else generation.lower()
    return model(name, generation, model_type, disabled, **(common | config))


def phi3(name, disabled, **config):
    return model(name, "Phi3", "phi3", disabled, partial_rotary_factor=0.75, **config)


WINDOW = {"window": {"window": UNLIMITED}, "last token of window": {"window": 7}, "first token after": {"window": 9}}
HALVES = {"rotation": {"rotated": 0}, "half pairs": {"adjacent_pairs": True}}
HEAD_NORMS = {"norms of query and key": {"without": ["attn_q_norm", "attn_k_norm"]}}
POST_NORMS = {"post norms": {"without": ["post_attention_norm", "post_ffw_norm"]}}
EXPERT_WEIGHTS = {"top-1 only": {"used_experts": 1}, "normalized weights": {"normalizes_weights": False}}
SHORT, LONG = [1.0, 1.1, 1.3, 1.6, 2.1, 2.7], [1.2, 1.9, 3.3, 6.1, 11.0, 17.5]

MODELS = [
    llama(
        "llama",
        {"rotation": {"rotated": 0}, "adjacent pairs": {"adjacent_pairs": False}},
        tie_word_embeddings=True,
    ),
    llama(
        "llama_untied_wide_head",
        {"base": {"base": 10000.0}, "output": {"without": ["output"]}, "size of head": {"attention_scale": 0.25}},
        head_dim=24, rms_norm_eps=1e-6, rope_theta=50000.0,
    ),
    llama("llama_linear", {"linear": {"linear": 1.0}}, rope_scaling={"type": "linear", "factor": 4.0}),
    llama(
        "llama_llama3",
        {"divisors": {"divisors": None}},
        rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 32},
    ),
    llama(
        "llama_yarn",
        {"frequencies": {"yarn": None}, "ramp": {"yarn": None, "linear": 4.0}, "gain": {"gain": 1.0}},
        head_dim=32, rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ),
    model("mistral_window", "Mistral", "mistral", WINDOW, sliding_window=8),
    model(
        "qwen2", "Qwen2", "qwen2",
        HALVES | {"biases": {"without": ["bias"]}, "epsilon": {"epsilon": 1e-6}},
        rms_norm_eps=0.1, rope_theta=1000000.0,
    ),
    model(
        "qwen3", "Qwen3", "qwen3",
        HALVES | HEAD_NORMS,
        head_dim=32, rope_theta=1000000.0, tie_word_embeddings=True,
    ),
    gemma("gemma", "Gemma", HALVES),
    gemma(
        "gemma2", "Gemma2",
        WINDOW | POST_NORMS | {
            "layers without window": {"period": 1}, "which layers": {"period": 3},
            "cap of scores": {"attention_cap": None}, "cap of logits": {"final_cap": None},
        },
        num_hidden_layers=4, query_pre_attn_scalar=16, sliding_window=8,
        attn_logit_softcapping=1.5, final_logit_softcapping=5.0,
    ),
    gemma(
        "gemma2_27b", "Gemma2",
        {"scale of scores": {"attention_scale": 0.25}},
        num_hidden_layers=46, query_pre_attn_scalar=24, sliding_window=8,
        attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
    ),
    gemma(
        "gemma3", "Gemma3",
        WINDOW | POST_NORMS | HEAD_NORMS | {
            "layers without window": {"period": 1}, "which layers": {"period": 5}, "linear": {"linear": 1.0},
            "base of local layers": {"local_rope_base": 10000.0}, "base of global layers": {"base": 10000.0},
        },
        num_hidden_layers=7, query_pre_attn_scalar=16, sliding_window=8,
        rope_theta=1000000.0, rope_local_base_freq=1000.0, rope_scaling={"rope_type": "linear", "factor": 8.0},
    ),
    gemma(
        "gemma3_27b", "Gemma3",
        {"scale of scores": {"attention_scale": 0.25}},
        num_hidden_layers=62, query_pre_attn_scalar=24, sliding_window=8,
        rope_theta=1000000.0, rope_local_base_freq=10000.0,
    ),
    phi3(
        "phi3",
        {"window": {"window": UNLIMITED}, "first token after": {"window": 17}, "partial rotation": {"rotated": 16}},
        original_max_position_embeddings=256, sliding_window=16,
    ),
    phi3(
        "phi3_longrope_short",
        {"divisors": {"divisors": None}, "long divisors": {"divisors": np.array(LONG)}, "gain": {"gain": 1.0}},
        max_position_embeddings=1024, original_max_position_embeddings=256,
        rope_scaling={"type": "longrope", "short_factor": SHORT, "long_factor": LONG},
    ),
    phi3(
        "phi3_longrope_long",
        {"divisors": {"divisors": None}, "short divisors": {"divisors": np.array(SHORT)}, "gain": {"gain": 1.0}},
        max_position_embeddings=128, original_max_position_embeddings=32,
        rope_scaling={"type": "longrope", "short_factor": SHORT, "long_factor": LONG},
    ),
    model(
        "mixtral", "Mixtral", "mixtral",
        EXPERT_WEIGHTS | {"all experts": {"used_experts": 4}},
        num_local_experts=4, num_experts_per_tok=2, sliding_window=None, rope_theta=1000000.0,
    ),
    model(
        "qwen3moe", "Qwen3Moe", "qwen3_moe",
        EXPERT_WEIGHTS | HEAD_NORMS | {"all experts": {"used_experts": 8}},
        head_dim=32, num_experts=8, num_experts_per_tok=3, norm_topk_prob=True, moe_intermediate_size=32,
        rope_theta=1000000.0,
    ),
]  # fmt: skip


# ---- The GGUF file ----


def sizes(config):
    """Query heads, key/value heads, head size, and rotated dimensions of a head."""
    heads = config["num_attention_heads"]
    head_size = config.get("head_dim", config["hidden_size"] // heads)
    return heads, config["num_key_value_heads"], head_size, int(config.get("partial_rotary_factor", 1.0) * head_size)


def gguf_header(config):
    model_type = config["model_type"]
    architecture = {"mistral": "llama", "mixtral": "llama", "qwen3_moe": "qwen3moe", "gemma3_text": "gemma3"}.get(
        model_type, model_type
    )
    heads, key_value_heads, head_size, rotated = sizes(config)
    lines = [["general.architecture", "string", architecture]]

    def add(key, type, value):
        if value is not None:
            lines.append([f"{architecture}.{key}", type, value])

    add("context_length", "u32", config["max_position_embeddings"])
    add("embedding_length", "u32", config["hidden_size"])
    add("block_count", "u32", config["num_hidden_layers"])
    add("feed_forward_length", "u32", config["intermediate_size"])
    add("attention.head_count", "u32", heads)
    add("attention.head_count_kv", "u32", key_value_heads)
    add("attention.layer_norm_rms_epsilon", "f32", config["rms_norm_eps"])
    if model_type not in ("qwen2", "phi3", "mixtral"):
        add("attention.key_length", "u32", head_size)
        add("attention.value_length", "u32", head_size)
    if architecture == "llama":
        add("vocab_size", "u32", config["vocab_size"])
    if architecture in ("llama", "phi3"):
        add("rope.dimension_count", "u32", rotated)
    if architecture not in ("gemma", "gemma2"):
        add("rope.freq_base", "f32", config["rope_theta"])
    add("rope.freq_base_swa", "f32", config.get("rope_local_base_freq"))
    add("attention.sliding_window", "u32", config.get("sliding_window", 0 if architecture == "phi3" else None))
    add("attn_logit_softcapping", "f32", config.get("attn_logit_softcapping"))
    add("final_logit_softcapping", "f32", config.get("final_logit_softcapping"))
    add("expert_count", "u32", config.get("num_local_experts", config.get("num_experts")))
    add("expert_used_count", "u32", config.get("num_experts_per_tok"))
    add("expert_feed_forward_length", "u32", config.get("moe_intermediate_size"))

    scaling = config.get("rope_scaling", {})
    kind = scaling.get("type", scaling.get("rope_type"))
    if kind in ("linear", "yarn"):
        add("rope.scaling.type", "string", kind)
        add("rope.scaling.factor", "f32", scaling["factor"])
    if kind == "yarn":
        add("rope.scaling.original_context_length", "u32", scaling["original_max_position_embeddings"])
    if architecture == "phi3":
        original = config["original_max_position_embeddings"]
        add("rope.scaling.original_context_length", "u32", original)
        if kind == "longrope":
            longer = config["max_position_embeddings"] / original
            add("rope.scaling.attn_factor", "f32", math.sqrt(1 + math.log(longer) / math.log(original)))
    return lines


def divisors_of_llama3(scaling, base, rotated):
    """Llama 3.1: low frequencies are divided by the factor, high frequencies are kept, those between are interpolated."""
    original, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = original * base ** (-2 * np.arange(rotated // 2) / rotated) / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - kept) / factor + kept)


def gguf_tensors(config):
    """Tuples (name, shape with the contiguous dimension first, values or None for the formula)."""
    hidden, wide, model_type = config["hidden_size"], config["intermediate_size"], config["model_type"]
    heads, key_value_heads, head_size, rotated = sizes(config)
    scaling = config.get("rope_scaling", {})
    found = [("token_embd.weight", [hidden, config["vocab_size"]], None), ("output_norm.weight", [hidden], None)]
    if not config["tie_word_embeddings"]:
        found.append(("output.weight", [hidden, config["vocab_size"]], None))
    divisors = {"rope_factors_long": scaling.get("long_factor"), "rope_factors_short": scaling.get("short_factor")}
    if scaling.get("rope_type") == "llama3":
        divisors["rope_freqs"] = divisors_of_llama3(scaling, config["rope_theta"], rotated)
    for name, values in divisors.items():
        if values is not None:
            found.append((name + ".weight", [rotated // 2], np.float32(values)))

    queries, keys = heads * head_size, key_value_heads * head_size
    block = {"attn_norm": [hidden], "attn_output": [queries, hidden], "ffn_norm": [hidden]}
    if model_type == "phi3":
        block |= {"attn_qkv": [hidden, queries + 2 * keys]}
    else:
        block |= {"attn_q": [hidden, queries], "attn_k": [hidden, keys], "attn_v": [hidden, keys]}
    if model_type in ("qwen3", "qwen3_moe", "gemma3_text"):
        block |= {"attn_q_norm": [head_size], "attn_k_norm": [head_size]}
    if model_type in ("gemma2", "gemma3_text"):
        block |= {"post_attention_norm": [hidden], "post_ffw_norm": [hidden]}
    if experts := config.get("num_local_experts", config.get("num_experts")):
        wide = config.get("moe_intermediate_size", wide)
        up, down = [hidden, wide, experts], [wide, hidden, experts]
        block |= {"ffn_gate_inp": [hidden, experts], "ffn_gate_exps": up, "ffn_up_exps": up, "ffn_down_exps": down}
    elif model_type == "phi3":
        block |= {"ffn_up": [hidden, 2 * wide], "ffn_down": [wide, hidden]}
    else:
        block |= {"ffn_gate": [hidden, wide], "ffn_up": [hidden, wide], "ffn_down": [wide, hidden]}
    for n in range(config["num_hidden_layers"]):
        found += [(f"blk.{n}.{name}.weight", shape, None) for name, shape in block.items()]
        if model_type == "qwen2":
            found += [(f"blk.{n}.attn_{letter}.bias", block[f"attn_{letter}"][1:], None) for letter in "qkv"]
    return found


def values_of(name, shape):
    """The values of the formula in float32; the last dimension is the contiguous one."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    z = np.uint64(seed) + np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    z = z ^ z >> np.uint64(31)
    c = (z >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5
    if "norm" in name:
        c = 1 + c * 0.5
    elif name.endswith(".bias"):
        c = c * 0.4
    elif name == "token_embd.weight":
        c = c * 2
    else:
        c = c * math.sqrt(12 / shape[0])
    return c.astype(np.float32).reshape(shape[::-1])


# ---- The classes of transformers ----

NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_up_exps": "mlp.experts.gate_up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
}


def state_of(config, weights):
    """The weights with the names and shapes of transformers."""
    model_type = config["model_type"]
    has_post_norms = "blk.0.post_attention_norm.weight" in weights
    names = NAMES | {"ffn_norm": "pre_feedforward_layernorm" if has_post_norms else "post_attention_layernorm"}
    if model_type == "phi3":
        names["ffn_up"] = "mlp.gate_up_proj"
    weights = {name: values for name, values in weights.items() if not name.startswith("rope_")}
    for name in [name for name in weights if "ffn_gate_exps" in name]:
        gate, up = weights.pop(name), weights.pop(name.replace("gate", "up"))
        weights[name.replace("gate", "gate_up")] = np.concatenate([gate, up], axis=1)

    state = {}
    for name, values in weights.items():
        *block, tensor, kind = name.split(".")
        if model_type.startswith("gemma") and tensor.endswith("norm"):
            values = values - 1  # the classes of transformers add 1
        if model_type in ("llama", "mistral", "mixtral") and tensor in ("attn_q", "attn_k"):
            # GGUF stores rotary pairs in adjacent rows, transformers in the two halves of a head.
            head_size = sizes(config)[2]
            values = values.reshape(-1, head_size // 2, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        path = [f"model.layers.{block[1]}"] if block else ["model"]
        path += [names.get(tensor, tensor)] + ([] if tensor.endswith("_exps") else [kind])
        state[".".join(path) if name != "output.weight" else "lm_head.weight"] = values
    if config["tie_word_embeddings"]:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    return state


def run_transformers(config, weights):
    """The logits in float32, in float64 (except norms, RoPE and softmax, which stay in float32), and config.json."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    settings = transformers.AutoConfig.for_model(**json.loads(json.dumps(config)))
    plain = {"attn_implementation": "eager", "experts_implementation": "eager"}
    network = transformers.AutoModelForCausalLM.from_config(settings, **plain).eval()
    assert type(network).__name__ == config["architectures"][0]
    state = {name: torch.tensor(values) for name, values in state_of(config, weights).items()}
    network.load_state_dict(state, strict=True)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        network.save_pretrained(folder)
        saved = json.loads((Path(folder) / "config.json").read_text())
        single = network(torch.tensor([TOKENS])).logits[0].numpy()
        double = network.double()(torch.tensor([TOKENS])).logits[0].numpy()
    return single, double, saved


# ---- The file ----


def entry(name, config, disabled):
    header = gguf_header(config)
    tensors = gguf_tensors(config)
    weights = {name: values_of(name, shape) if values is None else values for name, shape, values in tensors}
    single, double, saved = run_transformers(config, weights)

    weights = {name: values.astype(np.float64) for name, values in weights.items()}
    found = parameters({key: value for key, _, value in header}, weights)
    logits = forward(weights, TOKENS, **found)

    def distance(other):
        return float(np.abs(other - logits).max())

    def log(*words):
        print(*words, file=sys.stderr)

    log(f"{name}: spread {logits.std():.3g}, difference {distance(double):.1e}, in float32 {distance(single):.1e}")
    assert max(distance(single), distance(double)) < MAX_DIFFERENCE
    for feature, change in disabled.items():
        change = dict(change)
        removed = change.pop("without", [])
        kept = {name: values for name, values in weights.items() if not set(removed) & set(name.split("."))}
        effect = distance(forward(kept, TOKENS, **(found | change)))
        log(f"    {feature}: {effect:.2f}")
        assert effect > MIN_CHANGE

    architecture = header[0][2]
    window = f"{architecture}.attention.sliding_window"
    return {
        "name": name,
        "header": header,
        "unwritten": [window] if config["model_type"] == "mistral" else [],
        "unread": [window] if architecture in ("llama", "phi3") and config.get("sliding_window") else [],
        "tensors": [
            [name, shape] if values is None else [name, shape, [float(f"{value:.9g}") for value in values]]
            for name, shape, values in tensors
        ],
        "config": saved,
        "hub_config": config,
        "context": CONTEXT,
        "tokens": TOKENS,
        "logits": {str(at): [float(f"{value:.6g}") for value in double[at]] for at in POSITIONS},
    }


def compact(value):
    return json.dumps(value, separators=(",", ":"))


def format_entry(entry):
    """Formats an entry as JSON with one line for each field and for each position of the logits."""
    logits = ",\n".join(f"  {compact(at)}:{compact(values)}" for at, values in entry.pop("logits").items())
    fields = [f"{compact(key)}:{compact(value)}" for key, value in entry.items()]
    return "{" + ",\n ".join(fields + ['"logits":{\n' + logits + "}"]) + "}"


if __name__ == "__main__":
    print("[" + ",\n".join(format_entry(entry(*each)) for each in MODELS) + "]")
