"""Checkpoint and tokenizer files that claim far more than they hold."""

import io
import json
import pickletools
import struct
import tracemalloc
import zipfile
from copy import copy

import numpy as np
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
    with pytest.raises(ModelError, match="whose elements are not all stored"):
        read_checkpoint(path)


def test_views_of_a_larger_tensor_are_read(tmp_path):
    path = tmp_path / "w.pt"
    base = torch.arange(6.0).view(2, 3)
    torch.save({"a": base.T, "b": base[:, 1], "c": base[None], "d": torch.zeros(0)}, path)
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


def archive(path, program):
    """A torch file with this pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + program + b".")
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")


def text(word):
    return b"X" + struct.pack("<I", len(word)) + word


ENCODE = b"c_codecs\nencode\n"
DOUBLED = ENCODE + b"(" + text(b"a") + text(b"latin1") + b"tR"
for _ in range(12):
    DOUBLED = ENCODE + b"(" + DOUBLED + text(b"HEX-codec") + b"tR"
VOID = b"cnumpy\ndtype\n(" + text(b"V64000000") + b"tR"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"cbuiltins\nbytearray\n(J" + struct.pack("<i", 64_000_000) + b"tR", "bytearray"),
        (b"c__builtin__\nbytearray\n(J" + struct.pack("<i", 64_000_000) + b"tR", "bytearray"),
        (DOUBLED, "uses the codec HEX-codec"),
        (b"cnumpy._core.multiarray\nscalar\n(" + VOID + text(b"") + b"tR", "not a checkpoint"),
        (b"cnumpy.core.multiarray\nscalar\n(" + VOID + b"tR", "not a checkpoint"),
    ],
    ids=["bytearray", "older bytearray", "hex of hex", "void", "void without a value"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_swells_is_refused_before_it_does(tmp_path, program, message, zipped):
    path = tmp_path / "w.pt"
    if zipped:
        archive(path, program)
    else:
        torch.save({"a": ONE}, path, _use_new_zipfile_serialization=False)
        facts = io.BytesIO(path.read_bytes())
        for _ in range(3):
            list(pickletools.genops(facts))
        path.write_bytes(facts.getvalue()[: facts.tell()] + b"\x80\x02" + program + b".")
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=message):
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_an_archive_behind_a_pickle_does_not_hide_it(tmp_path):
    path, behind = tmp_path / "w.pt", tmp_path / "harmless.pt"
    torch.save({"a": ONE}, behind)
    program = b"\x80\x02cbuiltins\nbytearray\n(J\x00\x00\x00\x04tR."
    path.write_bytes(program + behind.read_bytes())
    with pytest.raises(ModelError, match="uses bytearray"):
        read_checkpoint(path)


def test_members_that_share_their_bytes_are_refused(tmp_path):
    whole, path = tmp_path / "whole.pt", tmp_path / "w.pt"
    torch.save({f"a{number}": torch.ones(1 << 16) for number in range(20)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        shared = None
        for member in old.infolist():
            if shared is None or "/data/" not in member.filename:
                new.writestr(member.filename, old.read(member))
                shared = new.filelist[-1] if "/data/" in member.filename else shared
            else:
                entry = copy(shared)
                entry.filename = member.filename
                new.filelist.append(entry)
    assert path.stat().st_size < 300_000
    with pytest.raises(ModelError, match="has members that share their bytes"):
        read_checkpoint(path)


def test_scalars_of_numpy_and_their_bytes_are_read(tmp_path):
    path = tmp_path / "w.pt"
    for zipped in (True, False):
        content = {"lr": np.float64(0.1), "steps": [np.int32(7)], "done": np.bool_(True)}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert b"_codecs\nencode" in path.read_bytes()
        assert read_checkpoint(path) == content
