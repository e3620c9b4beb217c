"""Exports language models to ONNX with the two common tools, for tests of imported ONNX models.

    python exports.py tiny
        writes exports/ beside this file: two llama models with two layers and random weights, one with an output matrix
        and one with tied embeddings (`-tied`, which gives different nodes), each exported by both tools; one of them also
        with int8 matrix multiplication, like `model_quantized.onnx` files on Hugging Face; and exports.json, the results
        of transformers with these weights.
    python exports.py int8
        adds the results of the int8 model on this machine's processor to exports.json, if they differ from the recorded
        ones: without VNNI, ONNX Runtime saturates sums of two products at 16 bits.
    python exports.py model FILE.gguf FOLDER
        writes FOLDER/hf (the GGUF file's weights in float32), FOLDER/genai and FOLDER/optimum: a real model, which
        is too large for the repository.

Requires Python 3.11 and these pinned packages. The tools need different versions of transformers, so there are two
environments; GENAI_PYTHON is the path of the second one's interpreter:

    pip install torch==2.8.0 transformers==4.57.6 tokenizers==0.22.2 accelerate==1.15.0 optimum==2.1.0 \
        optimum-onnx==0.1.0 onnxruntime==1.32.0 onnx==1.23.2 gguf==0.19.0 numpy==2.4.6
    pip install torch==2.8.0 transformers==5.24.0 onnxruntime-genai==0.18.0 onnxruntime==1.32.0 onnx==1.23.2 \
        onnx-ir==1.1.0 numpy==2.4.6

Two runs on one machine give the same files; on another machine the last digits of the logits may differ.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # no downloads

import gguf
import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
EXPECTED = HERE / "exports" / "exports.json"
# Of the first 1,200 seeds, those with the largest minimum gap between the two best tokens in the recorded texts.
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
    """Byte-level BPE trained on the perplexity text: 3 special tokens, 256 bytes, 41 merges."""
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
    """A model with weights large enough that attention is not uniform; its logits have a standard deviation of about 1."""
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
    """Beginnings of sentences of the perplexity text, one for each of LENGTHS, with exactly that many tokens."""
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
    """The logits of the last position, and the greedy continuation (without a cache; EOG tokens do not end it)."""
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


def run(path, ids, chunk_tokens=None):
    """The logits of the last position by ONNX Runtime: one sequence, no padding, in chunks of `chunk_tokens`."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    head_size = json.loads((path.parent / "config.json").read_text())["head_dim"]  # the inputs of one tool's models do not specify it
    names = [output.name for output in session.get_outputs()]
    pasts, chunk_tokens = {}, chunk_tokens or len(ids)
    for start in range(0, len(ids), chunk_tokens):
        end = min(start + chunk_tokens, len(ids))
        feeds = {}
        for input in session.get_inputs():
            if input.name.startswith("past_key_values"):
                feeds[input.name] = pasts.get(input.name, np.zeros([1, input.shape[1], 0, head_size], np.float32))
            elif input.name == "input_ids":
                feeds[input.name] = np.array([ids[start:end]], np.int64)
            elif input.name == "attention_mask":
                feeds[input.name] = np.ones([1, end], np.int64)
            elif input.name == "position_ids":
                feeds[input.name] = np.arange(start, end, dtype=np.int64)[None]
            else:
                raise SystemExit(f"{path}: input {input.name}")
        outputs = dict(zip(names, session.run(names, feeds)))
        pasts = {name.replace("present", "past_key_values"): value for name, value in outputs.items() if name != "logits"}
    return outputs["logits"][0, -1]


def int8(folder, output):
    shutil.copytree(folder, output)
    quantize_dynamic(folder / "model.onnx", output / "model.onnx", weight_type=QuantType.QInt8)


def export_tiny(tied):
    """Writes the folders of one model and returns its entry of exports.json."""
    names = [name + ("-tied" if tied else "") for name in ("genai", "genai-int4", "optimum")]
    exact, int4, other = (HERE / "exports" / name for name in names)
    int8_folder = HERE / "exports" / "optimum-int8"
    for folder in (exact, int4, other, *([] if tied else [int8_folder])):
        shutil.rmtree(folder, ignore_errors=True)
    tokenizer, model = tiny_tokenizer(), tiny_model(tied)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work) / "tiny"
        tokenizer.save_pretrained(work)
        model.save_pretrained(work)
        genai(work, exact, "fp32")
        genai(work, int4, "int4")
        optimum(work, other)
        for folder in (exact, int4):  # onnxruntime-genai copies the tokenizer, but not these files
            for file in ("config.json", "generation_config.json"):
                shutil.copy(work / file, folder / file)
    if not tied:
        int8(other, int8_folder)
    cases = []
    for text, ids in prompts(tokenizer):
        case = expected(model, text, ids)
        for folder in (exact, other):
            difference = np.abs(run(folder / "model.onnx", ids) - case["logits"]).max()
            assert difference < 1e-4, (folder, difference)
        case["logits_int4"] = [round(float(x), 6) for x in run(int4 / "model.onnx", ids)]
        if not tied:
            case["logits_int8"] = []
        cases.append(case)
    more = {} if tied else {"int8": int8_folder.name}
    return {"folders": [exact.name, other.name], "int4": int4.name, **more, "cases": cases}


def export_both_tiny():
    packages = ("torch", "transformers", "optimum-onnx", "onnxruntime")
    document = {
        "source": "tests/golden/exports.py: onnxruntime-genai 0.18.0, "
        + ", ".join(f"{name} {version(name)}" for name in packages),
        "how": "`logits`: transformers in float32, after the prompt's last token, without a BOS token. `greedy`: the next "
        f"{CONTINUATION} tokens; EOG tokens do not end the text. `smallest_gap`: the smallest difference between the two best "
        "logits of these steps. ONNX Runtime's results for `folders` are within 1e-4 of `logits`. `logits_int4`: the result of "
        "ONNX Runtime for the folder `int4`, whose weights have 4 bits and whose activations are quantized to int8. "
        "`logits_int8`: the results for the folder `int8`, which has one activation scale for all rows of a run, computed token "
        "by token; on processors without and with VNNI.",
        "models": [export_tiny(tied=False), export_tiny(tied=True)],
    }
    EXPECTED.write_text(json.dumps(document, indent=1) + "\n")
    add_int8()


def add_int8():
    document = json.loads(EXPECTED.read_text())
    for model in document["models"]:
        for case in model["cases"] if "int8" in model else []:
            result = run(EXPECTED.parent / model["int8"] / "model.onnx", case["tokens"], chunk_tokens=1)
            if all(np.abs(result - known).max() > 1e-5 for known in case["logits_int8"]):
                case["logits_int8"].append([round(float(x), 6) for x in result])
    EXPECTED.write_text(json.dumps(document, indent=1) + "\n")


def smollm_tokenizer(fields):
    """The tokenizer as in SmolLM's own tokenizer.json. With the GGUF file, transformers would not split digits and would add a
    BOS token."""
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
    """The tokenizer as in Gemma's own tokenizer.json: SentencePiece BPE with a merge for each split of a token into two tokens,
    ordered by score. With the GGUF file, transformers would create a Unigram model, which gives other tokens."""
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
    """Converts a GGUF file to a Hugging Face folder in float32; transformers dequantizes with the `gguf` package."""
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    model.save_pretrained(folder)
    fields = {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}
    if fields.get("tokenizer.ggml.pre") == "smollm":
        tokenizer = smollm_tokenizer(fields)
    elif fields["general.architecture"] == "gemma3":
        tokenizer = gemma_tokenizer(fields)
    else:
        raise SystemExit(f"{file}: the tokenizer is not supported by this script")
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
