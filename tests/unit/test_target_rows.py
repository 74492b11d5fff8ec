"""Rows of benchmarks/targets.py: times beside fp32, and targets of an engine's environment."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

import target_times
import targets
from tinyclip_edge.targets import TARGETS


def test_times_are_beside_the_fp32_of_the_baseline(exported, monkeypatch):
    def interleaved(calls, rounds, pause):
        assert list(calls) == ["fp32 of the baseline", "fp32", "int8"] and rounds == 2
        for call in calls.values():
            assert call().shape == (1, 64)
        times = {"fp32 of the baseline": 6.0, "fp32": 6.0, "int8": 2.0}
        return {name: {"median": ms, "min": ms / 2, "cpu": ms} for name, ms in times.items()}

    monkeypatch.setattr(target_times, "interleaved", interleaved)
    rows = target_times.bundle_times(exported.folder, exported.folder, rounds=2, threads=1)
    assert rows["int8"]["image"]["times_faster"] == rows["int8"]["text"]["times_faster"] == 3.0
    assert rows["fp32"]["text"]["times_faster_least"] == 1.0


@pytest.mark.parametrize(
    ("target", "kind", "reason"),
    [
        ("qnn", "x86-vnni", "for qnn, not for a processor"),
        ("arm64", "x86-vnni", "for arm64, and this processor is x86-vnni"),
        ("x86-avx2", "x86-vnni", None),
        ("litert", "arm64", None),
        ("x86", None, "for x86, and this processor is None"),
    ],
)
def test_only_files_for_a_like_processor_are_timed(target, kind, reason, monkeypatch):
    monkeypatch.setattr("tinyclip_edge.runtime.cpu.processor", lambda: kind)
    assert target_times.cannot_run_here(target) == reason


def test_an_engine_is_exported_by_the_python_of_its_environment(tmp_path):
    options = argparse.Namespace(limit=12, rounds=3, threads=1, times=True, envs=tmp_path)
    missing = targets.in_its_environment("m", "openvino", options)
    assert "openvino-ir/bin/python is missing: `make devices`" in missing["refused"]

    python = tmp_path / "openvino-ir/bin/python"
    python.parent.mkdir(parents=True)
    answer = {"targets": [{"target": "openvino", "precisions": []}]}
    body = f"import sys, pathlib; pathlib.Path(sys.argv[-1]).write_text({json.dumps(answer)!r})"
    python.write_text(f"#!{sys.executable}\n{body}\nassert '--times' in sys.argv\n")
    python.chmod(0o755)
    assert targets.in_its_environment("m", "openvino", options) == answer["targets"][0]
    python.write_text(f"#!{sys.executable}\nraise SystemExit('no such model')\n")
    assert targets.in_its_environment("m", "openvino", options)["refused"] == "no such model"


def test_every_engine_has_an_environment_of_the_makefile():
    from tinyclip_edge.engines import ENGINES

    (line,) = (
        line
        for line in (Path(__file__).parents[2] / "Makefile").read_text().splitlines()
        if line.startswith("ENGINES := ")
    )
    assert set(targets.ENVIRONMENTS) == set(ENGINES) <= set(TARGETS)
    assert set(targets.ENVIRONMENTS.values()) == set(line.split()[2:])
