"""The benchmark of tailored students: arms differ in one thing each, the search counts steps."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from tinyclip_edge.config import dump_config, load_config
from tinyclip_edge.tailoring.agreement import Agreement
from tinyclip_edge.tailoring.recipes import run_config
from tinyclip_edge.tailoring.request import TailorRequest
from tinyclip_edge.tailoring.shapes import ImageShape
from tinyclip_edge.tailoring.successive_halving import SuccessiveHalving
from tinyclip_edge.tailoring.transformer_tower import TeacherTransformer
from tinyclip_edge.tailoring.work import WorkFolder


@pytest.fixture(scope="module")
def benchmark_module():
    import tailored

    return tailored


@pytest.fixture
def domain(benchmark_module, tmp_path):
    """Three pictures of two names in a shard."""
    files = {"train": tmp_path / "train.tar", "names": tmp_path / "names.txt"}
    with tarfile.open(files["train"], "w") as shard:
        for key, name in (("a-1", "red apple"), ("b-1", "bread"), ("b-2", "bread")):
            for ending, content in (("webp", b"RIFF"), ("txt", name.encode())):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    return benchmark_module.Domain("food", files, tmp_path / "pictures", None)


@pytest.fixture
def of_arm(benchmark_module, domain, tmp_path):
    """A function from arm to run configuration, over that of a tailored run of 300 pictures."""
    shape = ImageShape((2,), 128, 2.0, 64)
    tower = TeacherTransformer(
        ImageShape((6,), 256, 4.0, 64), embed_dim=256, width_unit=64, stride=16
    )
    request = TailorRequest(tmp_path, ("red apple", "bread"), "starter-teacher", tmp_path / "out")
    config = run_config(request, WorkFolder(tmp_path), tower, shape, pictures=300, steps=40)
    path = tmp_path / "shape.yaml"
    path.write_text(dump_config(config))

    def configuration(arm):
        batch = config.optim.batch_size
        changes = benchmark_module.overrides(arm, domain, tmp_path / "pairs.jsonl", 100, batch)
        return load_config(path, changes)

    return configuration


def test_the_tailored_arm_is_what_tailor_trains(benchmark_module, of_arm):
    config = of_arm(benchmark_module.TAILORED)
    assert of_arm(benchmark_module.SAME_BYTES) == config  # but for the shape
    assert (config.data.train, config.loss.contrastive) == (None, 0)
    assert (config.inherit.plan, config.inherit.importance, config.optim.batch_size) == (
        "importance", None, 128
    )  # fmt: skip


def test_other_importance_is_that_of_the_whole_kit_alone(benchmark_module, of_arm):
    config = of_arm(benchmark_module.WITHOUT)
    parts = config.inherit.importance.parts
    assert {name: part.pairs for name, part in parts.items()} == {"general": "starter:train"}
    without = config.inherit.model_copy(update={"importance": None})
    tailored = of_arm(benchmark_module.TAILORED)
    assert config.model_copy(update={"inherit": without}) == tailored


def test_pairs_have_the_contrastive_loss_and_batches_of_different_names(benchmark_module, of_arm):
    paired, tailored = of_arm(benchmark_module.PAIRED), of_arm(benchmark_module.TAILORED)
    assert (paired.data.images, paired.data.texts) == (None, None)
    assert Path(paired.data.train).name == "pairs.jsonl" and paired.data.batch_distinct
    assert (paired.loss.contrastive, paired.optim.batch_size) == (1, 100)
    loss = paired.loss.model_copy(update={"contrastive": 0.0})
    optim = paired.optim.model_copy(update={"batch_size": 128})
    same = paired.model_copy(update={"data": tailored.data, "loss": loss, "optim": optim})
    assert same == tailored


def test_pairs_are_the_training_pictures_with_their_names(benchmark_module, domain, tmp_path):
    table, out = tmp_path / "train.jsonl", tmp_path / "pairs.jsonl"
    paths = ["/own/b-2.webp", "/own/a-1.webp"]  # b-1 is held out
    table.write_text("".join(json.dumps({"image": path}) + "\n" for path in paths))
    assert benchmark_module.write_pairs(domain, table, out) == 2
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"image": "/own/b-2.webp", "caption": "bread"},
        {"image": "/own/a-1.webp", "caption": "red apple"},
    ]


class KilledError(Exception):
    """Stands for a kill before the third training."""


class FakeRuns:
    """Candidates whose agreement is written in their names."""

    def __init__(self, kill_at=None):
        self.trained, self.kill_at = [], kill_at

    def train(self, name, steps):
        if len(self.trained) == self.kill_at:
            raise KilledError
        self.trained.append((name, steps))
        return 0.7  # seconds of a step, which do not matter

    def score(self, name):
        return Agreement(10, float(name) / 10, 1.0, 0.0)


def test_rungs_have_equal_shares_of_the_steps():
    halving, runs = SuccessiveHalving(list("1243"), dict.fromkeys("1243", 1.0)), FakeRuns()
    run(halving, runs)
    # 122 steps: 16 of four pilots, then a third of the rest to each rung: 4 x 8, 2 x 18, 1 x 38.
    assert [(rung.names, rung.steps) for rung in halving.rungs] == [
        (list("1243"), 4), (list("1243"), 12), (list("43"), 30), (["4"], 68)
    ]  # fmt: skip


def test_a_killed_search_divides_the_steps_as_if_it_had_not_been():
    whole, first = (SuccessiveHalving(list("1243"), dict.fromkeys("1243", 1.0)) for _ in "ab")
    run(whole, FakeRuns())
    records = []
    with pytest.raises(KilledError):
        run(first, FakeRuns(kill_at=6), lambda: records.append(json.dumps(first.as_dict())))
    second = SuccessiveHalving(list("1243"), dict.fromkeys("1243", 1.0))
    second.restore(json.loads(records[-1]))
    again = FakeRuns()
    run(second, again)
    assert second.as_dict() == whole.as_dict()
    assert again.trained[0] == ("4", 12)


def run(halving, runs, save=lambda: None):
    from tailored_search import StepClock

    clock = StepClock(runs, halving)
    halving.run(clock, 122 / 60, save, lambda _: None, clock=clock)


def test_gains_are_over_the_general_student_of_the_same_seed(benchmark_module):
    def records(*values):
        return [
            {"seed": seed, "bytes": 1000, "top1": top1, "fp32_top1": top1 + 1, "seconds": 2.0}
            for seed, top1 in enumerate(values)
        ]

    row = benchmark_module.row(records(61.0, 64.5), records(60.0, 65.0))
    assert (row["gain"], row["gain_mean"], row["top1_mean"]) == ([1.0, -0.5], 0.25, 62.75)
    assert (row["bytes"], row["fp32_top1"]) == (1000, [62.0, 65.5])
