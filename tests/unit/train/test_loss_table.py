"""A loss is its class and one entry of the table: everything else reads the entry."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import Field, model_validator
from typer.testing import CliRunner

from pair_shards import toy_samples, write_shard
from tinyclip_edge.cli.app import app
from tinyclip_edge.config import LossConfig, RunConfig, dump_config, load_config
from tinyclip_edge.config.loss import (
    LOSS_TERMS,
    LossEntry,
    loss_names,
    register_loss,
    unregister_loss,
)
from tinyclip_edge.config.section import Section
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.losses import TermValue
from tinyclip_edge.report.drawing import loss_lines
from tinyclip_edge.train import distill, read_events
from tinyclip_edge.train.monitoring.events import StepReport
from tinyclip_edge.train.monitoring.progress import _status
from toy_runs import STUDENT, Watcher


class MomentSettings(Section):
    power: float = Field(default=2.0, gt=0, description="Exponent of the moment term.")

    @model_validator(mode="after")
    def _check(self):
        if self.power > 9:
            raise ValueError("moment_power is above 9; gradients vanish")
        return self


class MomentTerm:
    """Mean of |student - teacher| to a power, images only; logs the largest difference."""

    modules = {}  # noqa: RUF012

    def __init__(self, student_width, teacher_width, *, power):
        assert student_width == teacher_width
        self.power = power

    def __call__(self, batch):
        difference = (batch.student.image - batch.teacher.image).abs()
        loss = difference.pow(self.power).mean()
        return TermValue(loss, {"moment_max": difference.detach().max()})


@pytest.fixture
def moment():
    before = dump_config(load_config("starter"))
    entry = register_loss(
        LossEntry(
            name="moment",
            description="Weight of the moment term.",
            implementation=f"{__name__}:MomentTerm",
            settings=MomentSettings,
            logged=("moment_max",),
        )
    )
    yield entry
    unregister_loss("moment")
    assert dump_config(load_config("starter")) == before


def test_its_keys_are_validated_as_any_other(moment):
    config = load_config("starter", ["loss.moment=0.5", "loss.moment_power=3"])
    assert (config.loss.weight("moment"), config.loss.settings("moment")) == (0.5, {"power": 3.0})
    assert list(config.loss.active) == ["affinity", "contrastive", "feature", "moment"]
    assert load_config("starter").loss.weight("moment") == 0
    for override, message in {
        "loss.moment=-1": r"loss\.moment is -1.*greater than or equal to 0",
        "loss.moment_power=0": r"loss\.moment_power is 0.*greater than 0",
        "loss.momemt=1": r"unknown key 'loss\.momemt'; did you mean 'loss\.moment'",
    }.items():
        with pytest.raises(ConfigError, match=message):
            load_config("starter", [override])
    with pytest.raises(ConfigError, match="moment_power is above 9"):
        load_config("starter", ["loss.moment=1", "loss.moment_power=10"])
    assert load_config("starter", ["loss.moment_power=10"])  # without a weight it is not used
    with pytest.raises(ConfigError, match="feature, sigmoid, interactive and moment are all 0"):
        load_config("starter", ["loss={affinity: 0}"])


def test_help_explains_its_keys(moment):
    shown = CliRunner().invoke(app, ["config", "loss.moment_power", "--json"])
    assert json.loads(shown.stdout)["keys"] == [
        {
            "key": "loss.moment_power",
            "type": "float",
            "default": "2.0",
            "description": "Exponent of the moment term.",
        }
    ]
    assert "Weight of the moment term." in CliRunner().invoke(app, ["config", "loss"]).stdout


def test_runs_train_log_and_draw_it(moment, toy_teacher_folder, tmp_path):
    run = {
        "teacher": {"model": str(toy_teacher_folder)},
        "student": {"model": STUDENT},
        "loss": {"affinity": 0.0, "moment": 4.0, "moment_power": 1.0},
        "data": {"train": str(write_shard(tmp_path / "train.tar", toy_samples())), "workers": 1},
        "optim": {"steps": 2, "batch_size": 24},
        "run": {"device": "cpu", "log_every": 1},
    }
    watcher = Watcher()
    distill(RunConfig.model_validate(run), tmp_path / "run", observer=watcher)
    steps = [e for e in read_events(tmp_path / "run" / "events.jsonl") if e["kind"] == "step"]
    assert len(steps) == 2
    for event in steps:
        assert event["loss"] == pytest.approx(4 * event["moment"], rel=1e-6)
        # Unit vectors of 64 values differ by sqrt(2) / 8 at most on average, by 2 at most at all.
        assert 0 < event["moment"] < event["moment_max"] <= 2
        assert event["moment"] <= np.sqrt(2 * 2 / 64)
    assert steps[1]["moment"] != steps[0]["moment"]  # its gradient reached the student
    assert loss_names()[-3:] == ("moment", "moment_max", "sparsity_price")
    assert "moment max" in " ".join(line.label for line in loss_lines(steps))
    report = StepReport(1, 2, {"loss": 1.0, "affinity": 0.5, "moment": 0.125}, 1e-3, 1.0, 0.0)
    assert "(affinity 0.5, moment 0.125)" in _status(report)


def test_a_used_key_is_refused(moment):
    for name in ("affinity", "moment", "moment_power", "teacher_logit_scale"):
        with pytest.raises(ConfigError, match=rf"loss\.{name} already exists"):
            register_loss(LossEntry(name=name, description="-", implementation="-"))
    assert list(LOSS_TERMS) == [
        "affinity", "contrastive", "feature", "sigmoid", "interactive", "moment",
    ]  # fmt: skip


def test_the_keys_of_the_built_in_terms_are_those_of_the_table():
    assert list(LossConfig.model_fields) == [
        "affinity", "affinity_kind", "affinity_mean", "affinity_i2t", "affinity_t2i",
        "affinity_hard_negative", "affinity_hard_positive", "affinity_hard_threshold",
        "contrastive", "feature", "feature_kind", "sigmoid", "interactive",
        "teacher_logit_scale", "student_logit_scale", "teacher_logit_bias", "student_logit_bias",
        "matryoshka",
    ]  # fmt: skip
    assert loss_names() == (
        "loss", "affinity", "affinity_i2t", "affinity_t2i", "kl", "teacher_entropy",
        "first_teacher", "fusion_nll", "contrastive", "feature", "sigmoid", "interactive",
        "sparsity_price",
    )  # fmt: skip


def test_terms_are_built_for_the_widths_they_compare():
    from tinyclip_edge.train.tasks.objective import make_objective

    loss = LossConfig(affinity=0.0, feature=1.0)
    assert make_objective(loss, 8, 8).modules == {}
    projector = make_objective(loss, 8, 16).modules["projector"]
    assert projector.text(torch.zeros(3, 8)).shape == (3, 16)


def test_a_term_may_be_written_as_a_table():
    nested = load_config("starter", ["loss={affinity: {kind: sigmoid}, feature: {weight: 3}}"])
    flat = load_config("starter", ["loss={affinity: 1, affinity_kind: sigmoid, feature: 3}"])
    assert nested == flat
    assert nested.loss.affinity_is_sigmoid
    assert not load_config("starter").loss.uses_bias


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("{affinity: {knid: sigmoid}}", r"unknown key 'loss\.affinity_knid'; did you mean"),
        ("{affinity: {kind: sigmoid}, affinity_kind: softmax}", "affinity_kind appears twice"),
        ("{affinity: {weight: much}}", r"loss\.affinity is 'much'"),
        ("{affinity_kind: sigmoid, affinity_i2t: 0.7}", "only apply to softmax"),
        ("{affinity_hard_negative: -1}", "greater than or equal to 0"),
        ("{affinity_hard_threshold: 2}", "less than or equal to 1"),
        ("{affinity_mean: ranks}", "'logits' or 'probabilities'"),
        ("{student_logit_bias: none}", r"loss\.student_logit_bias is 'none'.*'learned'"),
        ("{matryoshka: [16, 8]}", "from small to large, each once"),
        ("{matryoshka: [8, 8]}", "from small to large, each once"),
        ("{matryoshka: [0]}", r"loss\.matryoshka is 0.*greater than or equal to 1"),
        ("{matryoshka: 8}", r"loss\.matryoshka is 8.*valid list"),
        ("{affinity: 0, feature: 1, matryoshka: [8]}", "needs one of affinity, contr"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused_in_one_line(loss, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        load_config("starter", [f"loss={loss}"])
    assert "\n" not in str(refusal.value)
