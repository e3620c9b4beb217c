"""Writes adapters.json: reference logits of models with LoRA adapters.

The models are those of families.py, and the values of the adapters follow the same formula, with their tensor names in
llama.cpp's files: `X.lora_a` of shape [columns of X, rank] and `X.lora_b` of shape [rank, rows of X]. The logits are
computed by PEFT with the classes of transformers, in float64.

    pip install numpy==2.4.6 torch==2.15.0 transformers==5.24.0 peft==0.21.2 accelerate==1.15.0 psutil
    python adapters.py > adapters.json

An entry has
    model       name of the model in families.json
    adapters    all adapters that are active at once, each with
        weights     [name of the weight in a GGUF file, rank, name of lora_A in PEFT's file, name of lora_B]
        alpha       adapter.lora.alpha of a GGUF file
        config      adapter_config.json as PEFT saves it
        scale       the adapter scale
    logits      at some positions of the model's input
"""

import json
import sys
import tempfile
from pathlib import Path

import families
import numpy as np
from families import TOKENS

POSITIONS = [0, 9, 39]
MIN_CHANGE = 0.05  # an adapter must change some logit by more than this

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ENTRIES = [
    ("llama", [(dict(r=4, lora_alpha=2, target_modules=ALL), 1.0)]),
    ("llama_untied_wide_head", [(dict(r=3, lora_alpha=1.5, target_modules=["q_proj", "lm_head"]), 1.0)]),
    (
        "llama",
        [
            (dict(r=4, lora_alpha=1, target_modules=["k_proj", "v_proj"]), -1.5),
            (dict(r=9, lora_alpha=1.5, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"]), 0.5),
        ],
    ),
    ("qwen2", [(dict(r=8, lora_alpha=4, target_modules=ALL, layers_to_transform=[1]), 1.0)]),
    ("gemma3", [(dict(r=2, lora_alpha=1, target_modules=["q_proj", "o_proj", "up_proj"]), 1.0)]),
    ("phi3_longrope_short", [(dict(r=4, lora_alpha=2, target_modules=["qkv_proj", "gate_up_proj"]), 1.0)]),
]


def gguf_names(config):
    """Maps PEFT's module names to GGUF's weight names."""
    names = {}
    for name, shape, values in families.gguf_tensors(config):
        weight = {name: np.zeros(shape[::-1])} | {"blk.0.post_attention_norm.weight": np.zeros(1)}
        if values is not None or name == "token_embd.weight" or "norm" in name or not name.endswith(".weight"):
            continue
        hub = next(iter(families.state_of(config | {"tie_word_embeddings": False}, weight)))
        names[hub.removesuffix(".weight")] = name
    return names


def adjacent_to_half_pairs(config, weight, lora_b):
    """Reorders rows of queries and keys: GGUF stores rotary pairs in adjacent rows, transformers in the halves of a head."""
    if config["model_type"] != "llama" or not {"attn_q", "attn_k"} & set(weight.split(".")):
        return lora_b
    half = families.sizes(config)[2] // 2
    return lora_b.reshape(-1, half, 2, lora_b.shape[-1]).swapaxes(1, 2).reshape(lora_b.shape)


def entry(model, adapters):
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file

    transformers.logging.set_verbosity_error()
    [config] = [config for name, config, _ in families.MODELS if name == model]
    settings = transformers.AutoConfig.for_model(**json.loads(json.dumps(config)))
    network = transformers.AutoModelForCausalLM.from_config(settings, attn_implementation="eager").eval()
    tensors = families.gguf_tensors(config)
    weights = {name: families.values_of(name, shape) if values is None else values for name, shape, values in tensors}
    state = {name: torch.tensor(values) for name, values in families.state_of(config, weights).items()}
    network.load_state_dict(state, strict=True)
    network = network.double()
    plain = network(torch.tensor([TOKENS])).logits[0].detach().numpy()

    names, recorded = gguf_names(config), []
    for number, (settings, scale) in enumerate(adapters):
        settings = peft.LoraConfig(task_type="CAUSAL_LM", **settings)
        if number == 0:
            network = peft.get_peft_model(network, settings, adapter_name="a0")
        else:
            network.add_adapter(f"a{number}", settings)
        with tempfile.TemporaryDirectory() as folder:
            network.save_pretrained(folder, selected_adapters=[f"a{number}"], save_embedding_layers=False)
            saved = Path(folder) / f"a{number}"
            written = sorted(load_file(saved / "adapter_model.safetensors"))
            adapter_config = json.loads((saved / "adapter_config.json").read_text())
            adapter_config["target_modules"].sort()  # the order of a set is random
        adapted = []
        for lora_a in (name for name in written if name.endswith("lora_A.weight")):
            weight = names[lora_a.removeprefix("base_model.model.").removesuffix(".lora_A.weight")]
            adapted.append([weight, settings.r, lora_a, lora_a.replace("lora_A", "lora_B")])
        assert len(written) == 2 * len(adapted)
        values = {}
        for weight, rank, lora_a, lora_b in adapted:
            rows, columns = weights[weight].shape
            values[lora_a] = families.values_of(f"{weight}.lora_a", [columns, rank])
            values[lora_b] = adjacent_to_half_pairs(config, weight, families.values_of(f"{weight}.lora_b", [rank, rows]))
        peft.set_peft_model_state_dict(
            network, {name: torch.tensor(value.copy()) for name, value in values.items()}, adapter_name=f"a{number}"
        )
        factor = settings.lora_alpha / (settings.r**0.5 if settings.use_rslora else settings.r)
        recorded.append({"weights": adapted, "alpha": factor * settings.r, "config": adapter_config, "scale": scale})
    network.base_model.set_adapter([f"a{number}" for number in range(len(adapters))])
    for layer in network.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            for number, (_, scale) in enumerate(adapters):
                layer.set_scale(f"a{number}", scale)
    network = network.double().eval()
    with torch.no_grad():
        logits = network(torch.tensor([TOKENS])).logits[0].numpy()
    change = float(np.abs(logits - plain).max())
    print(f"{model}: spread {plain.std():.3g}, change {change:.3g}", file=sys.stderr)
    assert change > MIN_CHANGE
    return {
        "model": model,
        "adapters": recorded,
        "logits": {str(at): [float(f"{value:.6g}") for value in logits[at]] for at in POSITIONS},
    }


if __name__ == "__main__":
    print("[" + ",\n".join(families.format_entry(entry(*each)) for each in ENTRIES) + "]")
