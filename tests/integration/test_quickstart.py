"""The main job on the starter kit, cut short: distil, export, compare, in one process."""

import json

import pytest

from kit_part import write_kit_part
from tinyclip_edge import starter


@pytest.fixture(
    params=[
        pytest.param("part", marks=pytest.mark.excerpt),
        pytest.param("whole", marks=pytest.mark.slow),
    ]
)
def quickstart(request, tmp_path, monkeypatch, command_line, towers_exported_once):
    if request.param == "part":
        folder = write_kit_part(tmp_path)
        monkeypatch.setattr(starter, "_package_folder", lambda: folder)
    monkeypatch.chdir(tmp_path)
    code, out, _ = command_line("quickstart", "--steps", "4", "--json")
    assert code == 0
    return json.loads(out)


def test_quickstart_leaves_student_bundle_and_table(quickstart, tmp_path):
    assert (tmp_path / "runs/quickstart/student/open_clip_model.safetensors").is_file()
    assert (tmp_path / "bundles/quickstart/manifest.json").is_file()
    teacher, student, int8 = quickstart["rows"]
    assert [row["label"] for row in quickstart["rows"]] == ["teacher", "student", "student int8"]
    # half of the teacher's encoders, and int8 within 30 % of the float32 student's bytes
    assert student["encoder_parameters"] == pytest.approx(
        0.5 * teacher["encoder_parameters"], rel=0.1
    )
    assert int8["megabytes"] < 0.3 * student["megabytes"]
    # int8 ranks as float32 does, within the noise of the set
    noise = max(0.005, 2 * student["recall_at_1_stderr"])
    assert abs(int8["recall_at_1"] - student["recall_at_1"]) < noise
    # an inherited student is above chance after four steps: 1 of 1,577, of fewer in a part
    assert student["recall_at_1"] > 10 / 1577
