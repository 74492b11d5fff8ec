"""What a checkpoint claims is checked: version, digests, content; no code of it runs."""

import hashlib
import json

import pytest
import torch
from checkpoint_stores import content, load

from tinyclip_edge.errors import TinyClipError
from tinyclip_edge.train import checkpoint_store as module
from toy_runs import make_version_2


def sign(path, about):
    """Write checkpoint.json with the digest of what it says now, computed apart."""
    del about["sha256"]
    text = json.dumps(about, sort_keys=True).encode()
    about["sha256"] = hashlib.sha256(text).hexdigest()
    (path / "checkpoint.json").write_text(json.dumps(about))


def test_pickled_code_is_not_run(store, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    for step in (5, 10):
        path = store.save(content(step))
    torch.save({"optimizer": Evil()}, path / "state.pt")
    about = json.loads((path / "checkpoint.json").read_text())
    about["files"]["state.pt"] = module.file_sha256(path / "state.pt")
    sign(path, about)
    assert load(store)[0].position.step == 5
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_of_another_version_is_not_read(store):
    path = store.save(content(5)) / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 1}))
    assert store.config() is None
    warnings = []
    with pytest.raises(TinyClipError, match="no complete checkpoint"):
        store.load_newest(warnings.append)
    assert "version 1, but this version reads 3 and 2" in warnings[0]


def test_version_2_is_read_with_a_warning(store):
    saved = content(5)
    make_version_2(store.save(saved))
    checkpoint, warnings = load(store)
    assert checkpoint.position == saved.position
    assert checkpoint.version == 2
    assert torch.equal(checkpoint.weights["a"], saved.weights["a"])
    assert len(warnings) == 1
    assert "00000005 has version 2" in warnings[0]
    assert store.config() == {"seed": 0, "optim.betas": [0.9, 0.98]}


@pytest.mark.parametrize("name", ["student.safetensors", "state.pt"])
def test_files_of_version_2_are_compared_with_their_digests(store, name):
    for step in (3, 5):
        path = store.save(content(step))
    make_version_2(path)
    file = path / name
    file.write_bytes(file.read_bytes()[:-1] + b"\0\0")
    checkpoint, warnings = load(store)
    assert (checkpoint.position.step, checkpoint.version) == (3, 3)
    assert f"{name} was changed" in warnings[0]


def test_version_3_is_not_turned_into_version_2_by_its_number(store):
    for step in (3, 5):
        path = store.save(content(step))
    about = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps({**about, "version": 2, "skipped": 9}))
    assert load(store)[0].position.step == 3


@pytest.mark.parametrize(
    "change",
    [
        {"step": 7}, {"step": "x"}, {"step": -1}, {"stage": 9}, {"files": {}}, {"files": []},
        {"files": None}, {"skipped": 10**400}, {"config": []}, {"pruned": 2.5}, {"more": 1},
        {"sha256": "0" * 64},
    ],
)  # fmt: skip
def test_what_checkpoint_json_says_is_checked(store, change):
    for step in (3, 5):
        path = store.save(content(step))
    about = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps({**about, **change}))
    checkpoint, warnings = load(store)
    assert checkpoint.position.step == 3
    assert len(warnings) == 1
    assert "00000005 is damaged" in warnings[0]


@pytest.mark.parametrize(
    "change",
    [
        {"step": 7}, {"step": "x"}, {"files": {}}, {"stage": 0}, {"stage": 2**60},
        {"processes": 10**300}, {"skipped": 2**53}, {"skipped_in_a_row": 2**64}, {"pruned": 2**53},
    ],
)  # fmt: skip
def test_a_digest_that_fits_does_not_make_a_checkpoint_of_it(store, change):
    for step in (3, 5):
        path = store.save(content(step))
    sign(path, {**json.loads((path / "checkpoint.json").read_text()), **change})
    assert load(store)[0].position.step == 3


def test_a_state_of_other_content_is_no_checkpoint(store):
    for step in (3, 5):
        path = store.save(content(step))
    torch.save([1, 2], path / "state.pt")
    about = json.loads((path / "checkpoint.json").read_text())
    about["files"]["state.pt"] = hashlib.sha256((path / "state.pt").read_bytes()).hexdigest()
    sign(path, about)
    checkpoint, warnings = load(store)
    assert checkpoint.position.step == 3
    assert "state.pt has unexpected contents" in warnings[0]


def test_a_repeated_key_makes_a_checkpoint_damaged(store):
    """The last one has the digest; a reader that takes the first would see another step."""
    for step in (3, 5):
        path = store.save(content(step))
    text = (path / "checkpoint.json").read_text()
    (path / "checkpoint.json").write_text(text.replace("{", '{"step": 7, ', 1))
    checkpoint, warnings = load(store)
    assert checkpoint.position.step == 3
    assert "a key is repeated" in warnings[0]
