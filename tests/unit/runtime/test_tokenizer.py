from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from tiny_bundle import write_tiny_tokenizer
from tinyclip_edge.errors import DataError, ModelError
from tinyclip_edge.runtime.tokenizer import ClipTokenizer, clean_text

HARD_TEXTS = [
    "a photo of a cat",
    "",
    "  two  blanks\tand\nlines ",
    "fish &amp;amp; chips &lt;b&gt;",
    "don’t “stop” ‘now’",
    "route 66, 3.14",
    "STRASSE École İstanbul",
    "日本語 テスト",
    "👩‍👩‍👧 🇩🇪 ☕",
    "e\u0301clair",
    "it's we've I'LL they'd",
    "½ ² Ⅷ",
    "naïve — dash… #tag @you",
    "lone \ud800 surrogate",
    "word " * 100,
    "x" * 500,
]


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_tiny_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def open_clip_twins(tmp_path_factory):
    """open_clip's tokenizer, and ours on the same merges."""
    from open_clip.tokenizer import SimpleTokenizer, default_bpe
    from transformers import CLIPTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    theirs = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(piece, piece): i for piece, i in theirs.encoder.items()}
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(
        folder
    )
    return theirs, ClipTokenizer.from_file(folder / "tokenizer.json", 77)


@pytest.mark.parametrize("text", HARD_TEXTS, ids=lambda text: ascii(text)[:20])
def test_ids_equal_open_clip(open_clip_twins, text):
    theirs, ours = open_clip_twins
    np.testing.assert_array_equal(ours([text])[0], theirs([text])[0].numpy())


def test_ids_by_hand(tiny_path):
    tokenizer = ClipTokenizer.from_file(tiny_path, 16)
    names = json.loads(tiny_path.read_text())["model"]["vocab"]
    wanted = ["<|startoftext|>", "cat</w>", "re", "d</w>", "<|endoftext|>"]
    assert tokenizer.encode("Cat   RED") == [names[piece] for piece in wanted]


def test_truncation_keeps_the_end_token_and_padding_is_zero(tiny_path):
    tokenizer = ClipTokenizer.from_file(tiny_path, 4)
    assert tokenizer.encode("cat cat cat cat")[-1] == tokenizer.eot_token_id
    rows = tokenizer(["cat cat cat cat", "cat"])
    assert rows.shape == (2, 4) and rows.dtype == np.int64
    assert rows[1].tolist()[2:] == [tokenizer.eot_token_id, 0]


def test_control_tokens_typed_by_a_user_are_text(tiny_path):
    tokenizer = ClipTokenizer.from_file(tiny_path, 77)
    ids = tokenizer.encode("<|endoftext|> cat")
    assert ids.count(tokenizer.eot_token_id) == 1 and ids[-1] == tokenizer.eot_token_id


def test_cleaning():
    assert clean_text("  A &amp;lt; B\u00a0C ") == "a < b c"


@pytest.mark.parametrize("content", ["", "{}", '{"model": 3}', "[1, 2]", "\x00"])
def test_a_broken_file_is_a_model_error(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        ClipTokenizer.from_file(path, 16)


def test_a_missing_file_and_another_kind_of_tokenizer(tmp_path):
    from tokenizers import Tokenizer, models

    with pytest.raises(ModelError, match="cannot read tokenizer"):
        ClipTokenizer.from_file(tmp_path / "none.json", 16)
    path = tmp_path / "tokenizer.json"
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(path))
    with pytest.raises(ModelError, match="not a CLIP tokenizer"):
        ClipTokenizer.from_file(path, 16)


def test_wrong_arguments(tiny_path):
    with pytest.raises(ModelError, match="context length 1"):
        ClipTokenizer.from_file(tiny_path, 1)
    with pytest.raises(DataError, match="must be str, not int"):
        ClipTokenizer.from_file(tiny_path, 8).encode(3)
