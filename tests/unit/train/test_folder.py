"""What may be started or resumed in a run folder."""

import pytest
import torch

from tinyclip_edge.config import flatten, load_config
from tinyclip_edge.errors import ConfigError, TinyClipError
from tinyclip_edge.train.checkpoint import Checkpoint, Position, rng_state
from tinyclip_edge.train.folder import RunFolder


def folder(path, *overrides):
    return RunFolder(path, load_config("starter", overrides))


@pytest.fixture
def begun(tmp_path):
    path = tmp_path / "run"
    run = folder(path)
    run.create()
    position = Position(5, 0, 0, "teacher", "data", flatten(run.config))
    run.checkpoints.save(Checkpoint(position, {"a": torch.ones(1)}, {}, None, rng_state()))
    return path


def test_a_new_or_empty_folder_is_fine(tmp_path):
    folder(tmp_path / "new").check(resume=False)
    folder(tmp_path).check(resume=False)


def test_a_folder_in_use_is_refused_with_the_way_on(begun):
    with pytest.raises(TinyClipError, match=r"not empty.*distill --resume") as caught:
        folder(begun).check(resume=False)
    assert str(begun) in str(caught.value)


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(TinyClipError, match="is a file"):
        folder(tmp_path / "run").check(resume=False)


def test_resuming_needs_a_checkpoint(tmp_path):
    with pytest.raises(TinyClipError, match="no checkpoint to resume from"):
        folder(tmp_path / "none").check(resume=True)


def test_what_does_not_touch_the_result_may_change(begun):
    overrides = ("run.log_every=3", "run.save_every=1", "data.workers=4", "data.val=other.tar",
                 "run.keep=9", "name=other")  # fmt: skip
    folder(begun, *overrides).check(resume=True)


def test_keys_that_break_a_resume_are_named(begun):
    with pytest.raises(ConfigError) as caught:
        folder(begun, "seed=3", "optim.lr=2e-3", "run.keep=9").check(resume=True)
    message = str(caught.value)
    assert "seed (was 0, is 3)" in message
    assert "optim.lr (was 0.001, is 0.002)" in message
    assert "run.keep" not in message


def test_what_was_edited_in_the_run_folder_itself_is_seen(begun):
    path = begun / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 7").replace("keep: 2", "keep: 5"))
    edited = load_config(path)
    assert (edited.seed, edited.run.keep) == (7, 5)
    with pytest.raises(ConfigError, match=r"must not change: seed \(was 0, is 7\)$"):
        RunFolder(begun, edited).check(resume=True)
    folder(begun).check(resume=True)


def test_broken_checkpoints_are_left_for_the_store_to_name(begun):
    (begun / "checkpoints" / "00000005" / "checkpoint.json").write_text("{")
    folder(begun, "seed=3").check(resume=True)
