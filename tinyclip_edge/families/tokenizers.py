"""Small tokenizer.json files of the types that multilingual text towers use, built locally."""

from __future__ import annotations

import functools
import json
import string
import tempfile
from collections.abc import Callable
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from tinyclip_edge.models.pieces import BYTES

WORDS = (
    *("a", "an", "and", "the", "in", "on", "of", "with", "at", "cat", "dog", "bird", "house"),
    *("bicycle", "square", "circle", "photo", "rain", "snow", "table", "night", "red", "blue"),
    *("green", "small", "un", "gato", "rojo", "ein", "rotes", "rad", "красный", "кот", "猫"),
    *("赤い", "自転車"),
)


def _unigram(specials: list[str], template: str) -> Tokenizer:
    """SentencePiece's kind: known words are whole tokens, others are spelt letter by letter."""
    pieces = [(token, 0.0) for token in specials]
    pieces += [(f"▁{word}", -2.0 - 0.01 * n) for n, word in enumerate(WORDS)]
    letters = ["▁", *string.ascii_letters, *string.digits, *"абвгдежзийклмнопрстуфхцчшщыьэюя"]
    pieces += [(letter, -9.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=specials.index("<unk>")))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    used = [(token, specials.index(token)) for token in template.split() if token != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    tokenizer.add_special_tokens(specials)
    return tokenizer


def _byte_pairs() -> Tokenizer:
    """RoBERTa's kind: byte pairs between <s> and </s>."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t"), ("d", "o"), ("do", "g"), ("Ġ", "a")]
    tokens = [*specials, *symbols, *("".join(pair) for pair in merges)]
    model = models.BPE({token: n for n, token in enumerate(tokens)}, merges, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.add_special_tokens(specials)
    return tokenizer


def _merged_characters() -> Tokenizer:
    """Gemma's kind: merges of characters, spaces included, with bytes for unknown characters."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    letters = dict.fromkeys(["▁", *string.ascii_letters, *string.digits, *"".join(WORDS)])
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        piece = "▁"
        for letter in word:
            merges[piece, letter] = None
            piece += letter
    tokens = [*specials, *BYTES, *letters, *("".join(pair) for pair in merges)]
    model = models.BPE(
        {token: n for n, token in enumerate(dict.fromkeys(tokens))},
        [*merges],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", specials.index("<eos>"))]
    )
    tokenizer.add_special_tokens(specials)
    return tokenizer


def _word_pieces() -> Tokenizer:
    """BERT's kind: lower-case words and word pieces between [CLS] and [SEP]."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*string.ascii_lowercase, "猫", "赤", "い"]
    tokens = [*specials, *WORDS[:30], *letters, *(f"##{letter}" for letter in letters)]
    ids = {token: n for n, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(specials)
    return tokenizer


_FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>"]
_BUILT: dict[str, Callable[[], Tokenizer]] = {
    "XLM-R": lambda: _unigram([*_FAIRSEQ, "<mask>"], "<s> $A </s>"),
    "RoBERTa": _byte_pairs,
    "mT5": lambda: _unigram(["<pad>", "</s>", "<unk>"], "$A </s>"),
    "Gemma": _merged_characters,
    "BERT": _word_pieces,
    "NLLB": lambda: _unigram([*_FAIRSEQ, "eng_Latn", "deu_Latn"], "eng_Latn $A </s>"),
}
_NAMED = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
_BERT = {
    "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
}  # fmt: skip
_STARTED = {**_NAMED, "bos_token": "<s>", "cls_token": "<s>", "sep_token": "</s>"}
_GEMMA = {
    "pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>",
    "tokenizer_class": "GemmaTokenizerFast",
}  # fmt: skip
_SPECIAL = {"mT5": _NAMED, "Gemma": _GEMMA, "BERT": _BERT}


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="family-tokenizers-")


@functools.cache
def tokenizer_file(kind: str) -> Path:
    """Return the tokenizer.json of a kind, beside its tokenizer_config.json.

    Both are built once per process and deleted when it ends.
    """
    folder = Path(_scratch().name) / kind
    folder.mkdir()
    _BUILT[kind]().save(str(folder / "tokenizer.json"))
    named = _SPECIAL.get(kind, _STARTED)
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return folder / "tokenizer.json"


def vocabulary(kind: str) -> int:
    """Return the vocabulary size of a kind."""
    return Tokenizer.from_file(str(tokenizer_file(kind))).get_vocab_size()
