"""Stages, masks and students: what contradicts itself is refused in one line."""

from __future__ import annotations

import pytest

from tinyclip_edge.config import flatten, load_config
from tinyclip_edge.errors import ConfigError

BASE = "teacher: {model: t}\ndata: {train: x.tar}\n"
SHAPE = "{vision_cfg: {width: 64}}"


def load(tmp_path, text, *overrides):
    path = tmp_path / "mine.yaml"
    path.write_text(BASE + text)
    return load_config(path, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "student.model and student.keep are missing: set one of them, or stages"),
        ("student: {model: s, keep: 0.5}", "student.model and student.keep exclude each other"),
        ("student: {keep: 0.5}", "keep needs masks; set inherit.method=masks"),
        ("stages: [{keep: 0.5}]", "keep needs masks; set inherit.method=masks"),
        (
            "stages: [{student: {}}]\ninherit: {method: masks}",
            "no stage has masks: set keep in one of them, or inherit.method=uniform",
        ),
        (
            "student: {model: starter-50, uniform_shapes: true}",
            "student.uniform_shapes only applies to masks; set inherit.method=masks",
        ),
        (
            "student: {model: s}\nstages: [{student: s}]",
            "stages and student.model exclude each other; set student.model=null",
        ),
        (
            "inherit: {method: masks}\nstages: [{keep: 0.5}, {keep: 0.5}]",
            "stage 2 keeps 0.5, the previous one 0.5; a stage cannot grow",
        ),
        (
            "inherit: {method: masks}\nstages: [{keep: 0.25}, {keep: 0.75}]",
            "stage 2 keeps 0.75, the previous one 0.25; a stage cannot grow",
        ),
        (
            f"inherit: {{method: masks}}\nstages: [{{keep: 0.5}}, {{student: {SHAPE}}}]",
            "stage 2 has a fixed shape after a stage with masks; put it before them",
        ),
        (
            "inherit: {method: none}\nstages: [{student: a}, {student: b}]",
            "each stage would start from random weights",
        ),
        (
            "student: {keep: 0.5}\ninherit: {method: masks, plan: mapped}",
            "inherit.plan mapped starts from selected weights, and inherit.method is masks; set it",
        ),
        (
            "student: {model: s}\ninherit: {method: none, plan: mapped}",
            "inherit.plan mapped starts from selected weights, and inherit.method is none; set it",
        ),
        (
            "stages: [{student: s}]\ninherit: {plan: mapped}",
            "inherit.plan mapped learns one mapping, for a run without stages; set student.model",
        ),
        ("student: {model: s}\ninherit: {map_from: mapped}", "inherit.map_from is 'mapped'"),
        ("student: {model: s}\ninherit: {map_steps: 0}", "inherit.map_steps is 0"),
        ("student: {model: s}\nstages: [{kep: 0.5}]", "unknown key 'stages[1].kep'; did you mean"),
        (
            "inherit: {method: masks}\nstages: [{keep: 0.5}, {keep: 2}]",
            "stages[2].keep is 2 (a whole number); expected less than 1",
        ),
        ("stages: [{steps: 3}]", "stages[1]: set either keep or student"),
        ("stages: [{student: a, steps: 3, samples: 9}]", "set steps or samples, not both"),
        ("stages: [{student: a, samples: 9 apples}]", "samples is '9 apples' (text)"),
        ("student: {keep: 1.0}", "student.keep is 1.0 (a number); expected less than 1"),
    ],
)
def test_contradictions_are_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_contradicting_overrides_are_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "student: {model: s}", "student.keep=0.5")
    assert str(caught.value).startswith("override 'student.keep=0.5': student.model and")


@pytest.mark.parametrize(
    ("written", "pairs"), [("10M", 10_000_000), ("2.5k", 2500), ("1G", 10**9), ("7", 7)]
)
def test_samples_are_written_short(tmp_path, written, pairs):
    config = load(tmp_path, f"stages: [{{student: a, samples: {written}}}]")
    assert config.stages[0].samples == pairs


def test_the_published_constants_are_the_defaults(tmp_path):
    config = load(tmp_path, "student: {keep: 0.5}\ninherit: {method: masks}")
    assert (config.masks.lr, config.masks.lambda_lr, config.masks.start) == (0.02, 0.02, 0.0)
    assert config.masks.tolerance == 0.01
    assert (config.inherit.plan, config.inherit.calibration) == ("published", 256)
    flat = flatten(config)
    assert (flat["student.keep"], flat["student.uniform_shapes"]) == (0.5, False)
    assert flat["stages"] == []


def test_a_fault_in_stages_in_an_override_names_the_override(tmp_path):
    message = r"override 'stages=\[\{keep: 2\}\]': stages\[1\]\.keep is 2"
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, "inherit: {method: masks}", "stages=[{keep: 2}]")
