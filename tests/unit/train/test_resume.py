"""How a run ends when its pairs were streamed, and what a resume takes from a checkpoint."""

import hashlib
import json
import shutil

import pytest

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import RunConfig, load_config
from tinyclip_edge.errors import ConfigError, DataError, ModelError
from tinyclip_edge.train import checkpoint_store, distill
from tinyclip_edge.train.monitoring.events import Silent

pytestmark = pytest.mark.usefixtures("no_report")


class Messages(Silent):
    def __init__(self):
        self.messages = []

    def on_message(self, text):
        self.messages.append(text)


@pytest.fixture
def config(tmp_path, toy_teacher_folder):
    def make(samples, **optim):
        return RunConfig.model_validate(
            {
                "teacher": {"model": str(toy_teacher_folder)},
                "student": {"model": {"vision_cfg": {"width": 64, "layers": 2},
                                      "text_cfg": {"width": 64, "heads": 1, "layers": 2}}},
                "data": {"train": str(write_shard(tmp_path / "train.tar", samples)),
                         "memory_gb": 0.0},
                "optim": {"steps": 2, "batch_size": 24, **optim},
                "run": {"device": "cpu"},
            }
        )  # fmt: skip

    return make


def test_a_stream_tells_at_its_end_what_it_skipped(config, tmp_path):
    samples = toy_samples((32, 36, 40))  # 144 in 6 batches of 24 distinct concepts
    samples[7][1]["png"] = b"nothing"
    watcher = Messages()
    result = distill(config(samples, steps=6), tmp_path / "run", observer=watcher)
    line = f"skipped 1 of 144 images that cannot be decoded: {samples[7][0]}"
    assert [line in message for message in watcher.messages].count(True) == 1
    assert result.student.is_dir()


def test_a_short_stream_is_judged_at_its_end(config, tmp_path):
    samples = toy_samples()
    samples[7][1]["png"] = b"nothing"
    out = tmp_path / "run"
    with pytest.raises(DataError, match="1 of 48 images cannot be decoded"):
        distill(config(samples), out)
    assert not (out / "student").exists()


def test_an_edited_configuration_is_refused_on_resume(config, tmp_path):
    out = tmp_path / "run"
    distill(config(toy_samples()), out)
    path = out / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 4"))
    with pytest.raises(ConfigError, match=r"must not change: seed \(was 0, is 4\)"):
        distill(load_config(path), out, resume=True)


def test_a_checkpoint_of_another_architecture_is_one_line(config, tmp_path, monkeypatch):
    out = tmp_path / "run"
    run = config(toy_samples())
    distill(run, out)
    read = checkpoint_store.read_checkpoint

    def narrower(path):
        content = read(path)
        if path.name != checkpoint_store.WEIGHTS:
            return content
        return {key: t[..., :-1] if t.ndim > 1 else t for key, t in content.items()}

    monkeypatch.setattr(checkpoint_store, "read_checkpoint", narrower)
    with pytest.raises(ModelError) as caught:
        distill(run, out, resume=True)
    assert str(caught.value).startswith(
        f"cannot resume {out}: the checkpoint of step 2 has another"
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step": 7}, "its checkpoint is of step 7, but stage 1 has steps 0 to 2"),
        ({"stage": 2}, "its checkpoint is of stage 2, which does not exist"),
        (
            {"pruned": 1},
            "its checkpoint has a student pruned at step 1, but stage 1 prunes no masks",
        ),
    ],
)
def test_a_position_that_the_run_never_had_is_refused(config, tmp_path, fields, message):
    out = tmp_path / "run"
    run = config(toy_samples())
    distill(run, out)
    newest = out / "checkpoints" / "00000002"
    about = {**json.loads((newest / "checkpoint.json").read_text()), **fields}
    del about["sha256"]
    text = json.dumps(about, sort_keys=True).encode()
    about["sha256"] = hashlib.sha256(text).hexdigest()
    (newest / "checkpoint.json").write_text(json.dumps(about))
    newest.rename(newest.with_name(f"{about['step']:08d}"))
    shutil.copytree(out / "student", out / "stages" / "1" / "pruned")
    with pytest.raises(ModelError) as caught:
        distill(run, out, resume=True)
    assert str(caught.value).startswith(f"cannot resume {out}: {message}")
