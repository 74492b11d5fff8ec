from __future__ import annotations

import json

import numpy as np
import pytest

from tiny_bundle import write_tiny_tokenizer
from tinyclip_edge.errors import DataError, ModelError
from tinyclip_edge.runtime.tokenizer import ClipTokenizer, clean_text


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_tiny_tokenizer(path)
    return path


def test_ids_by_hand(tiny_path):
    tokenizer = ClipTokenizer.from_file(tiny_path, 16)
    names = json.loads(tiny_path.read_text())["model"]["vocab"]
    expected = ["<|startoftext|>", "cat</w>", "re", "d</w>", "<|endoftext|>"]
    assert tokenizer.encode("Cat   RED") == [names[piece] for piece in expected]


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

    with pytest.raises(ModelError, match="no file"):
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
