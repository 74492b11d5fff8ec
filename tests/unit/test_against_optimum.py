"""What a bundle and optimum's files are compared by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def bench():
    import against_optimum

    return against_optimum


def test_ids_are_cut_after_the_end_of_text(bench):
    assert bench.unpadded(np.array([7, 3, 5, 9, 0, 0])).tolist() == [[7, 3, 5, 9]]


def test_the_reference_is_at_no_distance_from_itself(bench):
    unit = np.eye(4, dtype=np.float32)
    near = bench.compared((unit, unit), (unit, unit))
    assert near["image_cosine_min"] == near["text_cosine_mean"] == 1.0
    assert near["same_image_first"] == near["same_text_first"] == 1.0
    assert near["t2i_r1"] == near["i2t_r1"] == 1.0


def test_one_turned_image_shows_in_every_figure(bench):
    unit = np.eye(4, dtype=np.float32)
    turned = unit[[1, 1, 2, 3]]  # image 0 now looks like text 1
    near = bench.compared((unit, unit), (turned, unit))
    assert near["image_cosine_min"] == 0.0 and near["image_cosine_mean"] == 0.75
    assert near["same_text_first"] == 0.75  # of images, what comes first
    assert near["i2t_r1"] == 0.75
    # Text 0 has lost its picture and ties with the three others at 0; text 1 ties with image 0.
    assert near["t2i_r1"] == pytest.approx((0.25 + 0.5 + 1 + 1) / 4)


def figures(int8_ms, theirs_ms):
    cell = {"median": 1.0, "min": 1.0, "cpu": 1.0}
    times = {
        "bundle int8": {key: int8_ms * value for key, value in cell.items()},
        "optimum-cli int8": {key: theirs_ms * value for key, value in cell.items()},
    }
    names = ("image_cosine_mean", "text_cosine_mean", "same_image_first", "same_text_first")
    near = dict.fromkeys((*names, "t2i_r1", "i2t_r1"), 1.0)
    return {
        "latency": [{"threads": 1, "image": times, "text": times}],
        "bytes": {"bundle int8": 10, "optimum-cli int8": 25},
        "nearness": {
            "bundle int8": near,
            "optimum-cli int8": {**near, "t2i_r1": 0.9},
            "torch": near,
        },
    }


def test_targets_are_reported_as_ratios_and_points(bench):
    lines = {line["what"]: line for line in bench.comparisons(figures(2.0, 7.0))}
    assert lines["image query, 1 threads: times faster"]["median"] == 3.5
    assert lines["times smaller"]["median"] == 2.5
    points = lines["t2i_r1 lost or won, points"]
    assert points["bundle int8"] == 0.0 and points["optimum-cli int8"] == pytest.approx(-10.0)


def test_commands_are_reported_without_folders_of_this_machine():
    import optimum_models

    steps = optimum_models.steps(Path("/somewhere/run"), Path("/somewhere/work"))
    commands = [optimum_models.command_of(step) for step in steps]
    assert commands[2] == (
        "optimum-cli export onnx --model hf --task zero-shot-image-classification optimum"
    )
    assert not any("/" in line for line in commands)


def test_a_folder_keeps_the_files_of_one_student(tmp_path, monkeypatch):
    import optimum_models

    exports = []
    monkeypatch.setattr(optimum_models, "steps", lambda run, work: exports.append(run) or [])
    for name, weights in (("first", b"1"), ("second", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    work = tmp_path / "work"
    optimum_models.write_models(tmp_path / "first", work)
    optimum_models.write_models(tmp_path / "first", work)
    with pytest.raises(SystemExit, match=r"work holds runs of student [0-9a-f]{64}; give them"):
        optimum_models.write_models(tmp_path / "second", work)
    assert exports == [tmp_path / "first"] * 2
