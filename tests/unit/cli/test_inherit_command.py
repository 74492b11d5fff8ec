"""``tinyclip-edge inherit``: the report against figures computed from the saved student."""

from __future__ import annotations

import io
import json
from functools import partial

import numpy as np
import pytest
import yaml
from PIL import Image

from pair_shards import toy_samples, write_shard
from tinyclip_edge.models import TorchEmbedder, load_clip

STUDENT = {
    "vision_cfg": {"width": 64, "layers": 2},
    "text_cfg": {"width": 64, "heads": 1, "layers": 2},
}


@pytest.fixture
def inherit(tmp_path, monkeypatch, command_line, toy_teacher_folder):
    """Run the command on a toy run with overrides: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    samples = toy_samples()
    val = write_shard(tmp_path / "val.tar", samples[::2])
    config = {
        "name": "toy",
        "teacher": {"model": str(toy_teacher_folder)},
        "student": {"model": STUDENT},
        "inherit": {"plan": "evenly"},
        "data": {"train": str(write_shard(tmp_path / "train.tar", samples)), "val": str(val)},
        "optim": {"steps": 2, "batch_size": 8},
    }
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(config))

    return partial(command_line, "inherit", "toy.yaml")


def embedded(model):
    """Features of the validation pictures and labels, each picture its own concept."""
    embedder = TorchEmbedder(load_clip(str(model)))
    files = [files for _, files in toy_samples()[::2]]
    images = embedder.encode_image([Image.open(io.BytesIO(f["png"])) for f in files])
    return images, embedder.encode_text([f["txt"].decode().splitlines()[0] for f in files])


def log_softmax(logits, axis):
    return logits - np.log(np.exp(logits).sum(axis=axis, keepdims=True))


def affinity_kl(ours, theirs, scale):
    total = 0.0
    for axis in (0, 1):
        p, q = (log_softmax(scale * (i.astype(np.float64) @ t.T), axis) for i, t in (theirs, ours))
        total += 0.5 * (np.exp(p) * (p - q)).sum(axis=axis).mean()
    return total


def top1(image, text):
    return float((np.argmax(image @ text.T, axis=1) == np.arange(len(image))).mean())


@pytest.mark.parametrize("plan", ["published", "evenly", "importance"])
def test_report_says_what_the_saved_student_does(inherit, tmp_path, toy_teacher_folder, plan):
    code, out, err = inherit("--json", f"inherit.plan={plan}", "inherit.calibration=16")
    assert code == 0, err
    printed = json.loads(out)
    folder = tmp_path / "runs" / "toy-step0"
    assert printed == json.loads((folder / "report.json").read_text())
    assert printed["student"] == "runs/toy-step0/student" and printed["plan"] == plan

    validation = printed["validation"]
    ours, theirs = embedded(folder / "student"), embedded(toy_teacher_folder)
    assert (validation["images"], validation["labels"]) == (24, 24)
    assert validation["student"]["i2t_r1"] == pytest.approx(top1(*ours))
    assert validation["teacher"]["i2t_r1"] == pytest.approx(top1(*theirs))
    assert validation["student"]["t2i_r1"] == pytest.approx(top1(*ours[::-1]))
    scale = float(load_clip(str(toy_teacher_folder)).model.logit_scale.detach().exp())
    assert validation["teacher_scale"] == validation["student_scale"] == pytest.approx(scale)
    assert validation["affinity_kl"] == pytest.approx(affinity_kl(ours, theirs, scale), rel=1e-3)


def test_parameters_are_conserved(inherit, toy_teacher_folder):
    code, out, _ = inherit("--json")
    report = json.loads(out)
    assert code == 0 and report["parameters_conserved"] is True
    # Width 64, 2 layers, patch 8: convolution, class and 17 positions, 3 norms outside the
    # blocks (the text has one), blocks of 12 w^2 + 13 w, projection to 64.
    width, block = 64, 12 * 64**2 + 13 * 64
    image = width * 3 * 8**2 + width * (1 + 17) + 4 * width + 2 * block + width * 64
    assert report["parameters"]["image"]["student"] == image
    assert sum(report["image"]["parameters"].values()) == image
    assert report["parameters"]["shared"] == {"teacher": 1, "student": 1}
    assert report["shared"]["parameters"] == {"copied": 0, "sliced": 0, "frozen": 0, "fresh": 1}
    teacher = load_clip(str(toy_teacher_folder)).model.state_dict()
    assert sum(counts["teacher"] for counts in report["parameters"].values()) == sum(
        tensor.numel() for tensor in teacher.values()
    )
    assert report["image"]["layers"] == [0, 3] and report["text"]["layers"] == [0, 2]


def test_tables_on_the_terminal_and_in_the_folder(inherit, tmp_path):
    code, out, err = inherit("--out", "here")
    assert code == 0, err
    text = (tmp_path / "here" / "report.txt").read_text()
    for words in ("Inherited weights", "affinity KL", "zero-shot top-1", "24 pictures and 24"):
        assert words in text and words.split()[0] in out
    assert "1 fresh, all accounted for" in text
    assert "here/student" in err
    assert (tmp_path / "here" / "student" / "open_clip_config.json").is_file()


def test_without_validation_pairs_only_the_weights_are_reported(inherit, tmp_path):
    code, out, _ = inherit("--json", "data.val=null")
    assert code == 0 and json.loads(out)["validation"] is None
    text = (tmp_path / "runs" / "toy-step0" / "report.txt").read_text()
    assert "accuracy not measured: data.val is null" in text


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("inherit.method=none",), "inherit.method is none"),
        (("data.val=nowhere.tar",), "nowhere.tar"),
        (("inherit.plan=importance", "inherit.calibration=1"), "at least 2 calibration pairs"),
        (("inherit.plan=importnce",), "importnce"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(inherit, tmp_path, words, named):
    code, _, err = inherit(*words)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and named in lines[0]
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()
