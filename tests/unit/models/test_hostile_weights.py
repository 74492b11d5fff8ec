"""Checkpoint and tokenizer files that claim far more than they hold."""

import json
import zipfile

import pytest
import torch

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.build import build_model
from tinyclip_edge.models.checkpoint_file import read_checkpoint
from tinyclip_edge.runtime.tokenizer_json import parse_tokenizer

ONE = torch.ones(1)


@pytest.mark.parametrize(
    "tensor",
    [ONE.expand(1 << 40), ONE.expand(2), torch.eye(3).to_sparse(), ONE.to("meta")],
    ids=["4 TB", "twice the file", "sparse", "meta"],
)
def test_a_tensor_larger_than_its_file_is_refused(tmp_path, tensor):
    path = tmp_path / "w.pt"
    torch.save({"state_dict": {"a": [tensor]}}, path)
    with pytest.raises(ModelError, match="without a value of its own for each element"):
        read_checkpoint(path)


def test_views_of_a_larger_tensor_are_read(tmp_path):
    path = tmp_path / "w.pt"
    whole = torch.arange(6.0).view(2, 3)
    torch.save({"a": whole.T, "b": whole[:, 1], "c": whole[None], "d": torch.zeros(0)}, path)
    content = read_checkpoint(path)
    assert content["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert content["b"].tolist() == [1, 4]


def test_a_table_that_contains_itself_ends(tmp_path):
    path = tmp_path / "w.pt"
    table = {"a": ONE}
    table["table"] = table
    torch.save(table, path)
    assert read_checkpoint(path)["a"].tolist() == [1]


def test_a_compressed_archive_is_refused(tmp_path):
    stored, path = tmp_path / "s.pt", tmp_path / "w.pt"
    torch.save({"a": torch.zeros(1 << 20)}, stored)
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert path.stat().st_size < 20_000
    with pytest.raises(ModelError, match="compressed archive"):
        read_checkpoint(path)


def tokenizer(path, length, **pieces):
    token = {"id": 0, "content": "x" * length, "special": True, "single_word": False,
             "lstrip": False, "rstrip": False, "normalized": False}  # fmt: skip
    model = {"type": "BPE", "vocab": {"a": 1, **pieces}, "merges": []}
    path.write_text(json.dumps({"added_tokens": [token], "model": model}))
    return path


def test_an_added_token_of_thousands_of_characters_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ModelError, match="an added token has 200,000 characters"):
        parse_tokenizer(tokenizer(path, 200_000))
    elsewhere = {"b" * 2000: 2}
    assert parse_tokenizer(tokenizer(path, 1000, **elsewhere)).get_vocab_size() == 3


@pytest.mark.parametrize("size", [[[]], [], [[8], 8], {"a": 8}])
def test_an_image_size_of_another_kind_is_refused_by_name(size):
    towers = {
        "vision_cfg": {"image_size": size, "patch_size": 8, "width": 64, "layers": 1},
        "text_cfg": {"width": 64, "heads": 1, "layers": 1, "vocab_size": 9},
    }
    with pytest.raises(ModelError, match="a: open_clip cannot build this model_cfg"):
        build_model({"embed_dim": 8, **towers}, "a")
