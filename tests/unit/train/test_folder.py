"""What may be started or resumed in a run folder."""

import os

import pytest
import torch

from tinyclip_edge.config import flatten, load_config
from tinyclip_edge.errors import ConfigError, TinyClipError
from tinyclip_edge.train.checkpoint import Checkpoint, Position, rng_state
from tinyclip_edge.train.run_folder import RunFolder, _filled


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


@pytest.mark.parametrize(
    "name",
    ["events.jsonl", "events.jsonl.damaged", "config.yaml.part", "report",
     "report/report.html.part", "checkpoints/7", "stages/0/x"],
)  # fmt: skip
def test_a_run_that_would_write_to_another_place_is_not_resumed(begun, tmp_path, name):
    """Its damaged lines of events, of anyone's choice, would be added to a file of the user."""
    victim = tmp_path / "victim"
    victim.mkdir() if "." not in name.rpartition("/")[2] else victim.write_text("precious")
    (begun / name).parent.mkdir(parents=True, exist_ok=True)
    (begun / name).symlink_to(victim)
    with pytest.raises(TinyClipError, match=rf"run/{name} leads to another place, which would be"):
        folder(begun).check(resume=True)


def test_a_pipe_in_a_run_is_not_waited_for(begun):
    os.mkfifo(begun / "events.jsonl.damaged")
    with pytest.raises(TinyClipError, match="leads to another place"):
        folder(begun).check(resume=True)


def test_links_to_a_run_and_to_models_in_it_are_resumed(begun, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (begun / "student").mkdir()
    (begun / "student" / "tokenizer.json").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(begun)
    folder(tmp_path / "link").check(resume=True)


def test_what_does_not_touch_the_result_may_change(begun):
    overrides = ("run.log_every=3", "run.save_every=1", "data.workers=4", "data.val=other.tar",
                 "run.keep=9", "name=other")  # fmt: skip
    folder(begun, *overrides).check(resume=True)


def test_keys_that_break_a_resume_are_named(begun):
    with pytest.raises(ConfigError) as caught:
        folder(begun, "seed=3", "optim.lr=4e-3", "run.keep=9").check(resume=True)
    message = str(caught.value)
    assert "seed (was 0, is 3)" in message
    assert "optim.lr (was 0.002, is 0.004)" in message
    assert "run.keep" not in message


def test_what_was_edited_in_the_run_folder_itself_is_detected(begun):
    path = begun / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 7").replace("keep: 2", "keep: 5"))
    edited = load_config(path)
    assert (edited.seed, edited.run.keep) == (7, 5)
    with pytest.raises(ConfigError, match=r"must not change: seed \(was 0, is 7\)$"):
        RunFolder(begun, edited).check(resume=True)
    folder(begun).check(resume=True)


def test_a_checkpoint_whose_configuration_is_of_no_run_is_compared_as_it_is(begun):
    run = folder(begun)
    config = {"data": 5, **flatten(run.config), "seed": 3}
    position = Position(9, 0, 0, "teacher", "data", config)
    run.checkpoints.save(Checkpoint(position, {"a": torch.ones(1)}, {}, None, rng_state()))
    with pytest.raises(ConfigError, match=r"must not change: seed \(was 3, is 0\)$"):
        run.check(resume=True)


def test_broken_checkpoints_are_for_the_store_to_name(begun):
    (begun / "checkpoints" / "00000005" / "checkpoint.json").write_text("{")
    folder(begun, "seed=3").check(resume=True)


def test_a_run_without_a_checkpoint_can_be_resumed_and_one_without_anything_started(tmp_path):
    path = tmp_path / "run"
    folder(path).create()
    folder(path).check(resume=True)
    with pytest.raises(TinyClipError, match=r"not empty.*distill --resume"):
        folder(path).check(resume=False)
    (path / "config.yaml").rename(path / ".config.yaml.0123456789abcdef.partial")
    (path / ".lock").touch()
    folder(path).check(resume=False)
    (path / ".config.yaml.0123456789abcdef.partial").rename(path / ".student.0123.partial")
    with pytest.raises(TinyClipError, match="not empty"):
        folder(path).check(resume=False)


def test_a_locked_folder_is_refused_to_others(begun):
    with folder(begun).held(resume=True):
        for resume in (True, False):
            with pytest.raises(TinyClipError, match=rf"in use by process {os.getpid()};") as caught:
                folder(begun).held(resume=resume).__enter__()
            assert "\n" not in str(caught.value)
    with folder(begun).held(resume=True):
        pass


def test_a_start_that_fails_before_it_begins_leaves_nothing(tmp_path):
    run = folder(tmp_path / "a" / "run")
    with pytest.raises(ZeroDivisionError), run.held(resume=False):
        assert run.settings.is_file()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_killed_runs_wrote_is_removed(begun):
    before = sorted(path for path in begun.rglob("*"))
    for name in (".student.123.partial", "stages/1/.pruned.123.partial", ".best.123.old",
                 "checkpoints/00000009.part", "checkpoints/.00000009.abc.partial"):  # fmt: skip
        (begun / name).mkdir(parents=True)
        (begun / name / "file").write_text("x")
    (begun / "report").mkdir()
    for name in ("teacher_features.safetensors.part", ".events.jsonl.0123.partial",
                 ".config.yaml.0123.partial", "report/.report.html.0123.partial"):  # fmt: skip
        (begun / name).write_text("x")
    (begun / "best").mkdir()
    with folder(begun).held(resume=True):
        pass
    after = sorted(path for path in begun.rglob("*"))
    own = {begun / n for n in (".lock", "best", "stages", "stages/1", "report")}
    assert set(after) - set(before) == own


def test_a_best_student_whose_place_is_empty_is_restored(begun):
    (begun / ".best.123.old").mkdir()
    (begun / ".best.123.old" / "file").write_text("x")
    with folder(begun).held(resume=True):
        assert (begun / "best" / "file").read_text() == "x"


def test_more_steps_may_be_requested_and_fewer_not(begun):
    steps = load_config("starter").optim.steps
    folder(begun, f"optim.steps={steps + 1}").check(resume=True)
    with pytest.raises(ConfigError, match=rf"optim\.steps \(was {steps}, is {steps - 1}\)"):
        folder(begun, f"optim.steps={steps - 1}").check(resume=True)


def test_what_a_checkpoint_recorded_under_an_old_key_counts():
    config = load_config("starter")
    recorded = flatten(config)
    recorded["data.lanes"] = recorded.pop("data.stream_groups")
    assert _filled(recorded) == flatten(config)
