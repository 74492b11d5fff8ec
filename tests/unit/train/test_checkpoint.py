"""Checkpoints: whole or not there; the newest whole one is found."""

import errno
import hashlib
import json
import shutil

import pytest
import torch

from killing import killed
from tinyclip_edge.errors import ModelError, TinyClipError
from tinyclip_edge.train import checkpoint_store as module
from tinyclip_edge.train.checkpoint import (
    Checkpoint,
    Position,
    restore_rng,
    rng_state,
)
from tinyclip_edge.train.checkpoint_store import CheckpointStore
from toy_runs import make_version_2


def content(step):
    weight = torch.arange(6.0).view(2, 3)
    state = {"state": {0: {"step": torch.tensor(float(step)), "exp_avg": weight * step}},
             "param_groups": [{"lr": 0.1, "params": [0], "betas": (0.9, 0.98)}]}  # fmt: skip
    return Checkpoint(
        Position(step, 3, 1, "teacher", "data", {"seed": 0, "optim.betas": [0.9, 0.98]}),
        weights={"a": weight * step, "turned": weight.T, "scalar": torch.tensor(2.5)},
        optimizer=state,
        scaler=None,
        rng=rng_state(),
    )


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


def load(store):
    told = []
    return store.load_newest(told.append), told


def sign(path, about):
    """Write checkpoint.json with the digest of what it says now, computed apart."""
    del about["sha256"]
    text = json.dumps(about, sort_keys=True).encode()
    about["sha256"] = hashlib.sha256(text).hexdigest()
    (path / "checkpoint.json").write_text(json.dumps(about))


def test_what_is_saved_comes_back(store):
    saved = content(7)
    path = store.save(saved)
    found, told = load(store)
    assert told == []
    assert found.position == saved.position
    assert all(torch.equal(found.weights[k], v) for k, v in saved.weights.items())
    assert torch.equal(found.optimizer["state"][0]["exp_avg"], saved.weights["a"])
    assert found.optimizer["param_groups"][0]["betas"] == (0.9, 0.98)
    about = json.loads((path / "checkpoint.json").read_text())
    assert (about["step"], about["format"]) == (7, "tinyclip-edge-checkpoint")


def test_random_numbers_go_on_where_they_were(store):
    store.save(content(1))
    expected = torch.rand(4)
    torch.manual_seed(99)
    restore_rng(load(store)[0].rng)
    assert torch.equal(torch.rand(4), expected)


def test_only_the_newest_are_kept(store):
    for step in (0, 5, 10, 100):
        store.save(content(step))
    assert store.steps() == [10, 100]


@pytest.mark.parametrize("name", ["student.safetensors", "state.pt", "checkpoint.json"])
@pytest.mark.parametrize("harm", ["cut", "changed", "missing"])
def test_a_broken_newest_falls_back_to_the_one_before(store, name, harm):
    for step in (5, 10):
        store.save(content(step))
    file = store.folder / "00000010" / name
    data = bytearray(file.read_bytes())
    if harm == "missing":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(data[: len(data) // 2])
    else:
        data[2] ^= 0x55
        file.write_bytes(data)
    found, told = load(store)
    assert found.position.step == 5
    assert len(told) == 1
    assert "00000010 is damaged" in told[0]


def test_nothing_whole_is_an_error(store):
    path = store.save(content(5))
    (path / "state.pt").unlink()
    with pytest.raises(TinyClipError, match="no complete checkpoint"):
        load(store)


def test_a_full_disk_leaves_the_last_checkpoint(store, monkeypatch):
    store.save(content(5))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(TinyClipError, match=r"No space left.*last complete one is of step 5"):
        store.save(content(10))
    assert [path.name for path in store.folder.iterdir()] == ["00000005"]
    assert load(store)[0].position.step == 5


def test_a_half_written_one_is_not_seen(store):
    store.save(content(5))
    (store.folder / "00000009.part").mkdir()
    assert store.steps() == [5]
    store.save(content(5))
    assert store.steps() == [5]


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


def trained(width):
    """A linear layer after one step of AdamW."""
    model = torch.nn.Linear(3, width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def checkpoint_of(model, optimizer):
    position = Position(5, 0, 0, "teacher", "data", {})
    return Checkpoint(position, model.state_dict(), optimizer.state_dict(), None, rng_state())


def test_a_checkpoint_is_applied_to_model_and_optimizer(store):
    model, optimizer = trained(2)
    store.save(checkpoint_of(model, optimizer))
    other, fresh = trained(2)
    load(store)[0].apply(other, fresh)
    assert torch.equal(other.weight, model.weight)
    moment = fresh.state_dict()["state"][0]["exp_avg"]
    assert torch.equal(moment, optimizer.state_dict()["state"][0]["exp_avg"])


def test_another_architecture_is_named_in_one_line(store):
    store.save(checkpoint_of(*trained(2)))
    found = load(store)[0]
    told = r"step 5 has another architecture: bias is \[2\] in the checkpoint but \[4\] in"
    with pytest.raises(ModelError, match=told) as caught:
        found.apply(*trained(4))
    assert "\n" not in str(caught.value)
    model = torch.nn.Linear(3, 2, bias=False)
    with pytest.raises(ModelError, match=r"bias is \[2\] in the checkpoint but missing in"):
        found.apply(model, torch.optim.AdamW(model.parameters()))
    model = torch.nn.Linear(3, 2)
    with pytest.raises(ModelError, match="step 5 has another architecture") as caught:
        found.apply(model, torch.optim.AdamW([model.weight]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spoilt", [torch.tensor(True), torch.tensor(1j), torch.tensor(5)])
def test_a_step_count_that_is_no_float_is_refused(store, spoilt):
    model, optimizer = trained(2)
    checkpoint = checkpoint_of(model, optimizer)
    checkpoint.optimizer["state"][0]["step"] = spoilt
    with pytest.raises(ModelError, match="its optimizer state belongs to another model"):
        checkpoint.apply(*trained(2))


def test_the_configuration_is_that_of_the_newest_readable_checkpoint(store):
    assert store.config() is None
    for step in (5, 10):
        store.save(content(step))
    (store.folder / "00000010" / "checkpoint.json").write_text("{")
    assert store.config() == {"seed": 0, "optim.betas": [0.9, 0.98]}


def test_a_checkpoint_of_another_version_is_not_read(store):
    path = store.save(content(5)) / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 1}))
    assert store.config() is None
    told = []
    with pytest.raises(TinyClipError, match="no complete checkpoint"):
        store.load_newest(told.append)
    assert "version 1, but this version reads 3 and 2" in told[0]


def test_version_2_is_read_with_a_warning(store):
    saved = content(5)
    make_version_2(store.save(saved))
    found, told = load(store)
    assert found.position == saved.position
    assert found.version == 2
    assert torch.equal(found.weights["a"], saved.weights["a"])
    assert len(told) == 1
    assert "00000005 has version 2" in told[0]
    assert store.config() == {"seed": 0, "optim.betas": [0.9, 0.98]}


@pytest.mark.parametrize("name", ["student.safetensors", "state.pt"])
def test_files_of_version_2_are_compared_with_their_digests(store, name):
    for step in (3, 5):
        path = store.save(content(step))
    make_version_2(path)
    file = path / name
    file.write_bytes(file.read_bytes()[:-1] + b"\0\0")
    found, told = load(store)
    assert (found.position.step, found.version) == (3, 3)
    assert f"{name} was changed" in told[0]


def test_version_3_is_not_made_version_2_by_its_number(store):
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
    found, told = load(store)
    assert found.position.step == 3
    assert len(told) == 1
    assert "00000005 is damaged" in told[0]


@pytest.mark.parametrize("change", [{"step": 7}, {"step": "x"}, {"files": {}}, {"stage": 0}])
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
    found, told = load(store)
    assert found.position.step == 3
    assert "state.pt has unexpected contents" in told[0]


def test_saving_a_step_again_never_leaves_the_run_without_it(store):
    """The only checkpoint is written again, and killed before each of its file operations."""
    store.save(content(5))
    for moment in range(100):
        was_killed = killed(lambda: store.save(content(5)), inside=store.folder, at=moment)
        store.recover()
        assert load(store)[0].position.step == 5
        assert [path.name for path in store.folder.iterdir()] == ["00000005"]
        if not was_killed:
            break
    assert 10 < moment < 99


@pytest.mark.parametrize("standing", ["nothing", "a broken one"])
def test_a_whole_one_that_a_kill_left_aside_is_taken(store, standing):
    path = store.save(content(5))
    part = path.with_name("00000005.part")
    if standing == "nothing":
        path.rename(part)
    else:
        shutil.copytree(path, part)
        (path / "state.pt").write_bytes(b"x")
    store.recover()
    assert load(store)[0].position.step == 5
    assert [path.name for path in store.folder.iterdir()] == ["00000005"]


def test_one_that_a_kill_left_unfinished_is_cleared_away(store):
    path = store.save(content(5))
    part = path.with_name("00000008.part")
    shutil.copytree(path, part)
    (part / "state.pt").unlink()
    store.recover()
    assert [path.name for path in store.folder.iterdir()] == ["00000005"]


def test_an_old_one_that_a_kill_left_half_deleted_is_cleared_away(store):
    for step in (5, 8, 9):
        path = store.save(content(step))
    shutil.copytree(path, path.with_name("00000005"))
    (path.with_name("00000005") / "checkpoint.json").unlink()
    store.recover()
    assert store.steps() == [8, 9]
