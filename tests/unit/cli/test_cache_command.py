"""``tinyclip-edge cache``: what it prints, and the one line of what cannot work."""

import json

import pytest
import yaml

from pair_shards import toy_samples, write_shard
from toy_runs import STUDENT


@pytest.fixture
def run_file(tmp_path, toy_teacher_folder):
    samples = toy_samples()
    write_shard(tmp_path / "a-0.tar", samples[:20])
    write_shard(tmp_path / "a-1.tar", samples[20:])

    def write(**data):
        config = {
            "teacher": {"model": str(toy_teacher_folder)},
            "student": {"model": STUDENT},
            "data": {"train": str(tmp_path / "a-*.tar"), "feature_cache": str(tmp_path / "cache"),
                     **data},
            "run": {"device": "cpu"},
        }  # fmt: skip
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write


def test_it_fills_once_and_says_what_it_did(run_file, tmp_path, command_line):
    code, out, err = command_line("cache", run_file(views=2), "--json")
    assert code == 0
    printed = json.loads(out)
    assert printed["folder"] == str(tmp_path / "cache")
    assert (printed["parts"], printed["computed"], printed["pictures"]) == (2, 2, 48)
    assert (printed["captions"], printed["undecodable"]) == (96, 0)
    # rows of 64 halves; marks of 16 bytes, seeds of 8
    assert printed["bytes"] == (2 * 48 + 96) * 128 + 48 * (16 + 16) + 96 * 16
    assert printed["estimate"]["pairs"] == pytest.approx(48, abs=4)
    assert printed["estimate"]["bytes"] == pytest.approx(printed["bytes"], rel=0.1)
    assert "2 of 2 parts are missing, about" in err
    code, out, err = command_line("cache", run_file(views=2))
    assert (code, out) == (0, "")
    assert "cache: 0 of 2 parts computed" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.feature_cache=null"], "data.feature_cache is null; set it to the folder"),
        (
            ["data.cache_teacher=false"],
            "data.cache_teacher is false, so runs would not read a cache",
        ),
        (["data.train=nowhere.tar"], "nothing matches 'nowhere.tar'"),
        (["data.views=-1"], "data.views is -1"),
        (["data.crop_scale=[0.5, 1.5]"], "crop_scale must be two shares, 0 < smallest"),
        (["data.crop_scale=0.5"], "data.crop_scale is 0.5"),
        (["teacher.ensemble=[{model: nowhere}]"], "nowhere"),
        (
            ["teacher.ensemble=[{model: x, wieght: 2}]"],
            "unknown key 'teacher.ensemble[1].wieght'; did you mean 'weight'?",
        ),
        (["teacher.ensemble=[{weight: 2}]"], "key 'teacher.ensemble[1].model' is missing"),
        (["teacher.ensemble=[{model: x, weight: 0}]"], "teacher.ensemble[1].weight is 0"),
    ],
)
def test_what_cannot_work_is_one_line(run_file, tmp_path, command_line, words, message):
    code, out, err = command_line("cache", run_file(), *words)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0], err
    assert "Traceback" not in err
    assert not (tmp_path / "cache").exists()


def test_a_stale_cache_is_refused_with_its_cure(run_file, command_line):
    assert command_line("cache", run_file())[0] == 0
    code, _, err = command_line("cache", run_file(views=3))
    assert code == 2
    assert "views.count (was None, is 3)" in err
    assert err.endswith("delete it, or set data.feature_cache to another folder\n")
