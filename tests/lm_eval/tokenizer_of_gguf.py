"""Converts the tokenizer of a GGUF file (byte-level BPE, `smollm`) to a folder that `transformers.AutoTokenizer` reads.

lm-eval loads a tokenizer from a repository or a folder; this way it needs no model hub.

    python tokenizer_of_gguf.py MODEL.gguf FOLDER
"""

import json
import sys
from pathlib import Path

from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers


def main(model, folder):
    fields = GGUFReader(model).fields

    def value(key):
        return fields[f"tokenizer.ggml.{key}"].contents()

    assert (value("model"), value("pre")) == ("gpt2", "smollm"), "this script supports only tokenizers of type gpt2 with the pre-tokenizer smollm"
    texts, kinds = value("tokens"), value("token_type")
    merges = [tuple(merge.split(" ")) for merge in value("merges")]
    tokenizer = Tokenizer(models.BPE({text: id for id, text in enumerate(texts)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [text for text, kind in zip(texts, kinds) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in control])

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": texts[value("bos_token_id")],
        "eos_token": texts[value("eos_token_id")],
        "unk_token": texts[value("unknown_token_id")],
        "pad_token": texts[value("padding_token_id")],
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": fields["tokenizer.chat_template"].contents(),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


main(sys.argv[1], Path(sys.argv[2]))
