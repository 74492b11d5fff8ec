"""Checkpoints: whole or not there; the newest whole one is found."""

import errno
import json
import shutil

import pytest
import torch
from checkpoint_stores import content, load

from killing import killed
from tinyclip_edge.errors import ModelError, TinyClipError
from tinyclip_edge.train import checkpoint_store as module
from tinyclip_edge.train.checkpoint import (
    Checkpoint,
    Position,
    restore_rng,
    rng_state,
)


def test_what_is_saved_comes_back(store):
    saved = content(7)
    path = store.save(saved)
    checkpoint, warnings = load(store)
    assert warnings == []
    assert checkpoint.position == saved.position
    assert all(torch.equal(checkpoint.weights[k], v) for k, v in saved.weights.items())
    assert torch.equal(checkpoint.optimizer["state"][0]["exp_avg"], saved.weights["a"])
    assert checkpoint.optimizer["param_groups"][0]["betas"] == (0.9, 0.98)
    about = json.loads((path / "checkpoint.json").read_text())
    assert (about["step"], about["format"]) == (7, "tinyclip-edge-checkpoint")


def test_random_numbers_go_on_where_they_were(store):
    store.save(content(1))
    expected = torch.rand(4)
    torch.manual_seed(99)
    restore_rng(load(store)[0].rng)
    assert torch.equal(torch.rand(4), expected)


def test_only_the_newest_remain(store):
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
    checkpoint, warnings = load(store)
    assert checkpoint.position.step == 5
    assert len(warnings) == 1
    assert "00000010 is damaged" in warnings[0]


def test_nothing_complete_is_an_error(store):
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


@pytest.mark.parametrize("name", ["00000009.part", "²", "٣", "-1"])
def test_what_is_no_number_of_a_step_is_ignored(store, name):
    store.save(content(5))
    (store.folder / name).mkdir()
    assert store.steps() == [5]
    store.save(content(5))
    assert store.steps() == [5]


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
    checkpoint = load(store)[0]
    warnings = r"step 5 has another architecture: bias is \[2\] in the checkpoint but \[4\] in"
    with pytest.raises(ModelError, match=warnings) as caught:
        checkpoint.apply(*trained(4))
    assert "\n" not in str(caught.value)
    model = torch.nn.Linear(3, 2, bias=False)
    with pytest.raises(ModelError, match=r"bias is \[2\] in the checkpoint but missing in"):
        checkpoint.apply(model, torch.optim.AdamW(model.parameters()))
    model = torch.nn.Linear(3, 2)
    with pytest.raises(ModelError, match="step 5 has another architecture") as caught:
        checkpoint.apply(model, torch.optim.AdamW([model.weight]))
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
def test_a_complete_one_of_a_killed_run_is_used(store, standing):
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


def test_an_unfinished_one_of_a_killed_run_is_removed(store):
    path = store.save(content(5))
    part = path.with_name("00000008.part")
    shutil.copytree(path, part)
    (part / "state.pt").unlink()
    store.recover()
    assert [path.name for path in store.folder.iterdir()] == ["00000005"]


def test_a_half_deleted_one_of_a_killed_run_is_removed(store):
    for step in (5, 8, 9):
        path = store.save(content(step))
    shutil.copytree(path, path.with_name("00000005"))
    (path.with_name("00000005") / "checkpoint.json").unlink()
    store.recover()
    assert store.steps() == [8, 9]
