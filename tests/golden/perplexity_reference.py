"""Computes the perplexity of perplexity.txt with llama.cpp and with exact arithmetic, as references for tests.

llama.cpp is the shared library in the wheel of `xllamacpp`, called through its C API; the algorithm is that of the tool
llama-perplexity with default settings:

    llama-perplexity -m MODEL.gguf -f perplexity.txt -c 512 -t 1

(batches of 2048 tokens: four chunks as four sequences; 16-bit cache; flash attention; activations quantized to int8 in
every multiplication with quantized weights). "exact" is transformers in float32 with the same tokens and with weights
dequantized by the `gguf` package.

    pip install xllamacpp==2026.10.11549 torch==2.8.0 transformers==4.57.6 accelerate==1.15.0 gguf==0.19.0 numpy==2.4.6
    python perplexity_reference.py SmolLM2-135M-Instruct.Q4_1.gguf gemma-3-270m.Q4_K_M.gguf > perplexity.json

llama.cpp's results are the same with one and two threads, and with a 32-bit cache. They are those of its AVX2 kernels; with
other kernels they differ in the third digit.
"""

import ctypes
import hashlib
import json
import math
import sys
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int8, c_int32, c_uint32, c_void_p
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import xllamacpp
from transformers import AutoModelForCausalLM

TEXT = Path(__file__).resolve().parent / "perplexity.txt"
CONTEXT = 512
FIRST = CONTEXT // 2
SEQUENCES = 4
HOW = (
    "The text is read as UTF-8 without its last newline and tokenized as a whole, without parsing special tokens; if the model adds "
    "a BOS token (`bos` is not null), the BOS token is prepended. `tokens` is the total count. The tokens are split into "
    "floor(tokens / 512) chunks of 512; the rest is not used. Each chunk is computed separately, at positions 0 to 511 with an empty "
    "cache. If `bos` is not null, the chunk's first token is replaced by it in the input (that token is never a target). With t[0..511] "
    "the tokens of the chunk and logits[i] the logits at position i, the positions i = 256 to 510 are evaluated: "
    "nll(i) = -log_softmax(logits[i])[t[i + 1]], which gives 255 values per chunk. perplexity = exp(mean of nll over the evaluated "
    "positions of all chunks), with sums in double precision; `chunks` has exp(mean) of each chunk. `standard_error` is perplexity * "
    "sqrt((mean(nll^2) - mean(nll)^2) / (n - 1)), the sampling error of the text, not the numerical error. `difference` compares "
    "nll of llama.cpp with that of exact arithmetic at each position: `mean` is the logarithm of the ratio of the two perplexities, "
    "`root_mean_square` and `largest` refer to single positions."
)

library = ctypes.CDLL(next(str(p) for p in Path(xllamacpp.__file__).parent.iterdir() if p.suffix == ".so"))


class ModelParameters(Structure):
    """Only the defaults are used. The structure is passed by value; it is larger than the real one, and the rest is ignored."""

    _fields_ = [("all", c_uint32 * 128)]


class ContextParameters(Structure):
    _fields_ = [(name, c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max")]
    _fields_ += [("n_outputs_max_per_seq", c_uint32), ("n_threads", c_int32), ("n_threads_batch", c_int32)]
    _fields_ += [("others", c_uint32 * 119)]


class Batch(Structure):
    _fields_ = [("n_tokens", c_int32), ("token", POINTER(c_int32)), ("embd", c_void_p), ("pos", POINTER(c_int32))]
    _fields_ += [("n_seq_id", POINTER(c_int32)), ("seq_id", POINTER(POINTER(c_int32))), ("logits", POINTER(c_int8))]


def function(name, result, *arguments):
    found = getattr(library, name)
    found.restype, found.argtypes = result, arguments
    return found


def llama(file):
    """The tokens of the text, the BOS token or None, and the negative log likelihoods of the evaluated positions."""
    function("llama_backend_init", None)()
    model_parameters = function("llama_model_default_params", ModelParameters)()
    parameters = function("llama_context_default_params", ContextParameters)()
    assert (parameters.n_ctx, parameters.n_batch, parameters.n_ubatch, parameters.n_threads) == (512, 2048, 512, 4)
    parameters.n_ctx, parameters.n_seq_max = SEQUENCES * CONTEXT, SEQUENCES
    parameters.n_threads = parameters.n_threads_batch = 1

    load = function("llama_model_load_from_file", c_void_p, c_char_p, ModelParameters)
    model = load(str(file).encode(), model_parameters)
    vocabulary = function("llama_model_get_vocab", c_void_p, c_void_p)(model)
    size = function("llama_vocab_n_tokens", c_int32, c_void_p)(vocabulary)
    bos = None
    if function("llama_vocab_get_add_bos", c_bool, c_void_p)(vocabulary):
        bos = function("llama_vocab_bos", c_int32, c_void_p)(vocabulary)
    text = TEXT.read_bytes().removesuffix(b"\n")
    buffer = (c_int32 * len(text))()
    tokenize = function(
        "llama_tokenize", c_int32, c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool
    )
    tokens = buffer[: tokenize(vocabulary, text, len(text), buffer, len(text), True, False)]

    context = function("llama_init_from_model", c_void_p, c_void_p, ContextParameters)(model, parameters)
    memory = function("llama_get_memory", c_void_p, c_void_p)(context)
    batch = function("llama_batch_init", Batch, c_int32, c_int32, c_int32)(SEQUENCES * CONTEXT, 0, 1)
    logits_of = function("llama_get_logits_ith", POINTER(c_float), c_void_p, c_int32)
    chunks = len(tokens) // CONTEXT
    nll = []
    for start in range(0, chunks, SEQUENCES):
        together = min(SEQUENCES, chunks - start)
        function("llama_memory_clear", None, c_void_p, c_bool)(memory, True)
        for i in range(together * CONTEXT):
            position = i % CONTEXT
            batch.token[i] = bos if bos is not None and position == 0 else tokens[start * CONTEXT + i]
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = i // CONTEXT
            batch.logits[i] = position >= FIRST
        batch.n_tokens = together * CONTEXT
        assert function("llama_decode", c_int32, c_void_p, Batch)(context, batch) == 0
        for sequence in range(together):
            shape = (CONTEXT - 1 - FIRST, size)
            logits = np.ctypeslib.as_array(logits_of(context, sequence * CONTEXT + FIRST), shape).astype(np.float64)
            nll.append(negative_log_likelihood(logits, tokens, start + sequence))
    return tokens, bos, np.stack(nll)


def exact(file, tokens, bos):
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    nll = []
    with torch.inference_mode():
        for chunk in range(len(tokens) // CONTEXT):
            ids = tokens[chunk * CONTEXT : (chunk + 1) * CONTEXT]
            if bos is not None:
                ids[0] = bos
            logits = model(torch.tensor([ids])).logits[0, FIRST : CONTEXT - 1].double().numpy()
            nll.append(negative_log_likelihood(logits, tokens, chunk))
    return np.stack(nll)


def negative_log_likelihood(logits, tokens, chunk):
    targets = np.array(tokens[chunk * CONTEXT + FIRST + 1 : (chunk + 1) * CONTEXT])
    largest = logits.max(1)
    return np.log(np.exp(logits - largest[:, None]).sum(1)) + largest - logits[np.arange(len(targets)), targets]


def figures(nll):
    perplexity = math.exp(nll.mean())
    return {
        "perplexity": round(perplexity, 4),
        "standard_error": round(perplexity * math.sqrt(nll.var() / (nll.size - 1)), 4),
        "chunks": [round(math.exp(chunk.mean()), 4) for chunk in nll],
    }


def measured(file):
    tokens, bos, by_llama = llama(file)
    by_exact = exact(file, tokens, bos)
    difference = by_llama - by_exact
    return {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "context": CONTEXT,
        "bos": bos,
        "tokens": len(tokens),
        "tokens_evaluated": by_llama.size,
        "command": f"llama-perplexity -m {file.name} -f {TEXT.name} -c {CONTEXT} -t 1",
        "llama.cpp": figures(by_llama),
        "exact": figures(by_exact),
        "difference": {
            "mean": round(float(difference.mean()), 5),
            "root_mean_square": round(float((difference**2).mean() ** 0.5), 5),
            "largest": round(float(np.abs(difference).max()), 5),
        },
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    document = {
        "source": "tests/golden/perplexity_reference.py: llama.cpp build 11549 (its library in xllamacpp "
        f"{version('xllamacpp')}, AVX2 CPU, called as llama-perplexity does); exact: torch {torch.__version__.split('+')[0]}, "
        f"transformers {version('transformers')}, gguf {version('gguf')}, float32",
        "how": HOW,
        "text_sha256": hashlib.sha256(TEXT.read_bytes()).hexdigest(),
        "models": [measured(Path(name).resolve()) for name in sys.argv[1:]],
    }
    print(json.dumps(document, indent=1))
