"""Records the tokens of texts with Unigram vocabularies: by SentencePiece, and by the `tokenizers` crate with the same charsmap.

    python tests/golden/unigram.py
        writes unigram.json beside this file.

Requires sentencepiece 0.2.1 and tokenizers 0.23.3.
"""

import base64
import io
import json
import pathlib
import tempfile

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2 as model_pb2
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps.",
    "She sells sea shells by the sea shore; it's 12345 shells!",
    "def f(x):\n    return x + 1\n",
    "café naïve straße ÜNÏCÖDÉ office fluffy",
    "hello hello world worlds wording",
    "日本語 中文 テキスト カタカナ",
] * 3

TEXTS = [
    "",
    " ",
    "Hello, world!",
    " the quick  brown fox",
    "the dogs\n\n  sleep\t12345 6789  ",
    "cafe\u0301 caf\u00e9 stra\u00dfe e\u0301\u0302",
    "日本語と中文🙂 ｶﾀｶﾅ ﾊﾟ",
    "of\ufb01ce \ufb03 \ufb04 \u2460\u2461 \u00bd \u2122 \ufdfa",
    "\u3000wide\u00a0space\u200bnone\ufeff",
    "it's DON'T We'll \u2581 the\u2581dog",
    "sea\u0000shells\u0007\u007f",
    "worldworldworld 👨\u200d👩\u200d👧 q\u0323\u0307",
]

# A small subset of SentencePiece's normalization rules: full width, ligatures, combining marks, spaces.
RULES = {
    **{chr(0xFF01 + index): chr(0x21 + index) for index in range(94)},
    "e\u0301": "\u00e9", "e\u0302": "\u00ea", "e\u0301\u0302": "\u1ebf", "a\u0301": "\u00e1", "\ufb01": "fi", "\ufb03": "ffi",
    "\ufb04": "ffl", "\u2460": "1", "\u2461": "2", "\u00bd": "1\u20442", "\u2122": "TM", "\u3000": " ", "\u00a0": " ",
    "\u200b": " ", "\ufeff": "", "\t": " ", "\n": " ", "\u0007": "", "\u007f": "", "\uff76": "\u30ab", "\uff80": "\u30bf",
    "\uff85": "\u30ca", "\uff8a": "\u30cf", "\uff8a\uff9f": "\u30d1", "\u00dc": "\u00fc", "\ufdfa": "\u0635\u0644\u0649 \u0627\u0644\u0644\u0647",
}


def trained(folder, **options):
    """Trains a SentencePiece model."""
    rules = folder / "rules.tsv"
    lines = [
        " ".join(f"{ord(c):X}" for c in key) + "\t" + " ".join(f"{ord(c):X}" for c in value) for key, value in sorted(RULES.items())
    ]
    rules.write_text("\n".join(lines) + "\n")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=written, model_type="unigram", vocab_size=110, character_coverage=1.0,
        normalization_rule_tsv=str(rules), minloglevel=2, hard_vocab_limit=False, **options,
    )
    model = model_pb2.ModelProto()
    model.ParseFromString(written.getvalue())
    return model


def case(name, model):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    spec = model.normalizer_spec
    return {
        "name": name,
        "charsmap": base64.b64encode(spec.precompiled_charsmap).decode(),
        "space_before": spec.add_dummy_prefix,
        "merges_spaces": spec.remove_extra_whitespaces,
        "pieces": [[piece.piece, round(piece.score, 6), piece.type] for piece in model.pieces],
        "texts": [{"text": text, "ids": processor.encode(text)} for text in TEXTS],
    }


def of_json(model):
    """The same vocabulary as a tokenizer.json; the crate has its own reader of the charsmap."""
    pieces = [(piece.piece, round(piece.score, 6)) for piece in model.pieces]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=model.trainer_spec.unk_id))
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap), normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
    ])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    texts = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in TEXTS]
    return {"tokenizer": json.loads(tokenizer.to_str()), "texts": texts}


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        usual = trained(folder)
        kept = trained(folder, remove_extra_whitespaces=False)
        bare = trained(folder, remove_extra_whitespaces=False, add_dummy_prefix=False)
        document = {
            "source": f"tests/golden/unigram.py: sentencepiece {sentencepiece.__version__}, tokenizers {tokenizers.__version__}",
            "sentencepiece": [case("usual", usual), case("spaces kept", kept), case("no space before", bare)],
            "tokenizer_json": of_json(usual),
        }
    path = pathlib.Path(__file__).with_name("unigram.json")
    path.write_text(json.dumps(document, indent=1) + "\n")


main()
