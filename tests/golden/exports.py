"""Exports of language models by the two tools that people use, for the tests that read ONNX files made by others.

    python exports.py tiny
        writes exports/ beside this file: two llamas with two layers and random weights, small enough to be kept, one
        with a head of its own and one whose head is its embedding (`-tied`: other nodes, not only other weights), each
        exported by both tools; one of them with int8 products, too, as the hub's `model_quantized.onnx` has them; and
        exports.json, what transformers computes of them.
    python exports.py int8
        adds to exports.json what this machine's processor computes with the int8 products, if it is another result than
        those that are there: without VNNI the runtime cuts off sums of two products that do not fit into 16 bits.
    python exports.py model FILE.gguf FOLDER
        writes FOLDER/hf (the GGUF file's weights in float32), FOLDER/genai and FOLDER/optimum: a real model, which
        is not kept.

Python 3.11, and everything pinned. The tools need different transformers, so there are two environments; the second one's
interpreter is named by GENAI_PYTHON:

    pip install torch==2.8.0 transformers==4.57.6 tokenizers==0.22.2 accelerate==1.15.0 optimum==2.1.0 \
        optimum-onnx==0.1.0 onnxruntime==1.32.0 onnx==1.23.2 gguf==0.19.0 numpy==2.4.6
    pip install torch==2.8.0 transformers==5.24.0 onnxruntime-genai==0.18.0 onnxruntime==1.32.0 onnx==1.23.2 \
        onnx-ir==1.1.0 numpy==2.4.6

Two runs on one machine give the same files; on another one the last digits of the logits may differ.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here is fetched

import gguf
import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
EXPECTED = HERE / "exports" / "exports.json"
# Of the first 1,200 those whose recorded texts have the largest smallest gap between the two best tokens.
SEEDS = {False: 435, True: 438}
VOCABULARY = 300
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LENGTHS = (5, 17, 33)
CONTINUATION = 16


def tiny_tokenizer():
    """Byte-level BPE over the perplexity text's most frequent pairs: 3 special tokens, 256 bytes, 41 merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([(HERE / "perplexity.txt").read_text()], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[2],
        unk_token=SPECIAL[0],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def tiny_model(tied):
    """Weights so large that attention looks at something, and that logits have a deviation of about 1."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=2,
        dtype="float32",
    )
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(SEEDS[tied])
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            parameter.data = 1 + 0.2 * noise
        elif "q_proj" in name or "k_proj" in name:
            parameter.data = noise * 1.5 / parameter.shape[-1] ** 0.5
        elif "embed" in name and not tied:
            parameter.data = noise
        else:
            parameter.data = noise / parameter.shape[-1] ** 0.5
    return model


def prompts(tokenizer):
    """Beginnings of the text's sentences that have exactly as many tokens as wanted."""
    sentences = (HERE / "perplexity.txt").read_text().replace("\n", " ").split(". ")
    for length in LENGTHS:
        for sentence in sentences[length:]:
            ids = tokenizer(sentence)["input_ids"][:length]
            text = tokenizer.decode(ids)
            if len(ids) == length and tokenizer(text)["input_ids"] == ids:
                yield text, ids
                break


@torch.inference_mode()
def expected(model, text, ids):
    """The last position's logits, and the greedy continuation (each step computed anew, end tokens taken as others)."""
    logits = model(torch.tensor([ids])).logits[0, -1]
    tokens, gap = list(ids), float("inf")
    for _ in range(CONTINUATION):
        best = model(torch.tensor([tokens])).logits[0, -1].topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        tokens.append(int(best.indices[0]))
    return {
        "prompt": text,
        "tokens": ids,
        "logits": [round(float(x), 6) for x in logits],
        "greedy": tokens[len(ids) :],
        "smallest_gap": round(gap, 4),
    }


def genai(folder, output, precision):
    with tempfile.TemporaryDirectory() as cache:
        command = [os.environ["GENAI_PYTHON"], "-m", "onnxruntime_genai.models.builder"]
        command += ["-i", str(folder), "-o", str(output), "-p", precision, "-e", "cpu", "-c", cache]
        subprocess.run(command, check=True)


def optimum(folder, output):
    command = [str(Path(sys.executable).parent / "optimum-cli"), "export", "onnx", "--model", str(folder)]
    command += ["--task", "text-generation-with-past", str(output)]
    subprocess.run(command, check=True)


def run(path, ids, at_once=None):
    """The last position's logits by ONNX Runtime: an empty past, one row, no padding, so many tokens at once."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    head_size = json.loads((path.parent / "config.json").read_text())["head_dim"]  # one tool's inputs do not say
    names = [output.name for output in session.get_outputs()]
    pasts, at_once = {}, at_once or len(ids)
    for start in range(0, len(ids), at_once):
        end = min(start + at_once, len(ids))
        feeds = {}
        for given in session.get_inputs():
            if given.name.startswith("past_key_values"):
                feeds[given.name] = pasts.get(given.name, np.zeros([1, given.shape[1], 0, head_size], np.float32))
            elif given.name == "input_ids":
                feeds[given.name] = np.array([ids[start:end]], np.int64)
            elif given.name == "attention_mask":
                feeds[given.name] = np.ones([1, end], np.int64)
            elif given.name == "position_ids":
                feeds[given.name] = np.arange(start, end, dtype=np.int64)[None]
            else:
                raise SystemExit(f"{path}: input {given.name}")
        outputs = dict(zip(names, session.run(names, feeds)))
        pasts = {name.replace("present", "past_key_values"): value for name, value in outputs.items() if name != "logits"}
    return outputs["logits"][0, -1]


def int8(folder, output):
    shutil.copytree(folder, output)
    quantize_dynamic(folder / "model.onnx", output / "model.onnx", weight_type=QuantType.QInt8)


def export_tiny(tied):
    """Writes the folders of one model; the answer is its part of exports.json."""
    names = [name + ("-tied" if tied else "") for name in ("genai", "genai-int4", "optimum")]
    exact, rounded, other = (HERE / "exports" / name for name in names)
    scaled = HERE / "exports" / "optimum-int8"
    for folder in (exact, rounded, other, *([] if tied else [scaled])):
        shutil.rmtree(folder, ignore_errors=True)
    tokenizer, model = tiny_tokenizer(), tiny_model(tied)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work) / "tiny"
        tokenizer.save_pretrained(work)
        model.save_pretrained(work)
        genai(work, exact, "fp32")
        genai(work, rounded, "int4")
        optimum(work, other)
        for folder in (exact, rounded):  # this tool copies the tokenizer, but not these
            for file in ("config.json", "generation_config.json"):
                shutil.copy(work / file, folder / file)
    if not tied:
        int8(other, scaled)
    cases = []
    for text, ids in prompts(tokenizer):
        case = expected(model, text, ids)
        for folder in (exact, other):
            difference = np.abs(run(folder / "model.onnx", ids) - case["logits"]).max()
            assert difference < 1e-4, (folder, difference)
        case["logits_int4"] = [round(float(x), 6) for x in run(rounded / "model.onnx", ids)]
        if not tied:
            case["logits_int8"] = []
        cases.append(case)
    more = {} if tied else {"int8": scaled.name}
    return {"folders": [exact.name, other.name], "int4": rounded.name, **more, "cases": cases}


def export_both_tiny():
    packages = ("torch", "transformers", "optimum-onnx", "onnxruntime")
    document = {
        "source": "tests/golden/exports.py: onnxruntime-genai 0.18.0, "
        + ", ".join(f"{name} {version(name)}" for name in packages),
        "how": "`logits`: transformers in float32, after the prompt's last token; nothing is put before the prompt. `greedy`: the "
        f"{CONTINUATION} tokens that follow, end tokens taken as others; `smallest_gap`: the smallest distance between the two best "
        "logits on that way. ONNX Runtime's own run of `folders` is within 1e-4 of `logits`. `logits_int4`: the same position "
        "by ONNX Runtime's own run of the folder `int4`, whose weights are rounded to 4 bits and whose activations to int8. "
        "`logits_int8`: the same of the folder `int8`, which finds one scale for all rows of a run, token by token; on processors "
        "without VNNI and with it.",
        "models": [export_tiny(tied=False), export_tiny(tied=True)],
    }
    EXPECTED.write_text(json.dumps(document, indent=1) + "\n")
    add_int8()


def add_int8():
    document = json.loads(EXPECTED.read_text())
    for model in document["models"]:
        for case in model["cases"] if "int8" in model else []:
            found = run(EXPECTED.parent / model["int8"] / "model.onnx", case["tokens"], at_once=1)
            if all(np.abs(found - known).max() > 1e-5 for known in case["logits_int8"]):
                case["logits_int8"].append([round(float(x), 6) for x in found])
    EXPECTED.write_text(json.dumps(document, indent=1) + "\n")


def smollm_tokenizer(fields):
    """What SmolLM's own tokenizer.json says; transformers' reading of GGUF leaves out that digits stand alone, and puts
    a token before every text."""
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"]) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        chat_template=fields["tokenizer.chat_template"],
        clean_up_tokenization_spaces=False,
        model_max_length=fields["llama.context_length"],
    )


def gemma_tokenizer(fields):
    """What Gemma's own tokenizer.json says: SentencePiece's BPE, a merge for every way to halve a piece, in the order of the
    scores; transformers takes the scores for a unigram model's and gives other tokens."""
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    pieces = {token for token, kind in zip(tokens, kinds) if kind == gguf.TokenType.NORMAL}
    merges = []
    for piece in pieces:
        score = fields["tokenizer.ggml.scores"][vocabulary[piece]]
        halves = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
        merges += [(-score, vocabulary[a], vocabulary[b], a, b) for a, b in halves if a in pieces and b in pieces]
    merges = [merge[-2:] for merge in sorted(merges)]
    unknown = tokens[fields["tokenizer.ggml.unknown_token_id"]]
    bos, bos_id = tokens[fields["tokenizer.ggml.bos_token_id"]], fields["tokenizer.ggml.bos_token_id"]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, bos_id)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    for kind, special in ((gguf.TokenType.CONTROL, True), (gguf.TokenType.USER_DEFINED, False)):
        added = [AddedToken(t, special=special, normalized=False) for t, of in zip(tokens, kinds) if of == kind]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[fields["tokenizer.ggml.padding_token_id"]],
        unk_token=unknown,
        clean_up_tokenization_spaces=False,
    )


def hub_folder(file, folder):
    """A GGUF file as the hub's folder, in float32. Transformers dequantises the weights with the `gguf` package."""
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    model.save_pretrained(folder)
    fields = {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}
    if fields.get("tokenizer.ggml.pre") == "smollm":
        tokenizer = smollm_tokenizer(fields)
    elif fields["general.architecture"] == "gemma3":
        tokenizer = gemma_tokenizer(fields)
    else:
        raise SystemExit(f"{file}: a tokenizer that nobody has written down here")
    tokenizer.save_pretrained(folder)
    return model.eval(), tokenizer


def export_model(file, output):
    folder = Path(output) / "hf"
    hub_folder(Path(file).resolve(), folder)
    genai(folder, Path(output) / "genai", "fp32")
    optimum(folder, Path(output) / "optimum")


if __name__ == "__main__":
    if sys.argv[1:2] == ["tiny"]:
        export_both_tiny()
    elif sys.argv[1:] == ["int8"]:
        add_int8()
    elif sys.argv[1:2] == ["model"] and len(sys.argv) == 4:
        export_model(sys.argv[2], sys.argv[3])
    else:
        raise SystemExit(__doc__)
