"""The latency benchmark times every variant alike and judges it by what was asked for."""

from __future__ import annotations

import argparse
import time

import pytest


@pytest.fixture(scope="module")
def bench():
    import export_latency

    return export_latency


def test_variants_take_turns_and_each_is_called_as_often(bench):
    called = []
    calls = {name: (lambda name=name: called.append(name)) for name in "abc"}
    times = bench.interleaved(calls, rounds=7, pause=0.0)
    timed = called[3 * bench.WARM_UP :]
    rounds = [timed[i : i + 3] for i in range(0, len(timed), 3)]
    assert len(rounds) == 7 and all(sorted(one) == ["a", "b", "c"] for one in rounds)
    # Nobody is always the one that comes after the same other.
    assert {one[0] for one in rounds} == {"a", "b", "c"}
    assert {row["rounds"] for row in times.values()} == {7}


def test_wall_time_counts_a_wait_and_processor_time_does_not(bench):
    times = bench.interleaved({"waits": lambda: time.sleep(0.01)}, rounds=3, pause=0.0)["waits"]
    assert times["median"] >= times["min"] >= 10.0
    assert times["cpu"] < 5.0


def row(name, tower, batch, threads, **ms):
    cells = {key: {"median": v, "min": v / 2, "cpu": v / 4} for key, v in ms.items()}
    named = {"fp32": "onnx fp32", "int8": "onnx int8", "eager": "torch eager"}
    place = {"model": name, "tower": tower, "batch": batch, "threads": threads}
    return {**place, "ms": {named[key]: cell for key, cell in cells.items()}}


def test_only_one_input_on_one_thread_is_compared_with_the_target(bench):
    place = (bench.VIT_40M, "image")
    rows = [
        row(*place, 1, 1, fp32=30.0, int8=10.0, eager=50.0),
        row(*place, 1, 2, fp32=99.0, int8=1.0, eager=99.0),
        row(*place, 16, 1, fp32=99.0, int8=1.0, eager=99.0),
    ]
    lines = {line["from"]: line for line in bench.ratios_reached(rows)}
    assert {name: line["median"] for name, line in lines.items()} == {
        "onnx fp32": 3.0,
        "torch eager": 5.0,
    }
    assert lines["onnx fp32"]["asked"] == 2.7 and lines["onnx fp32"]["cpu"] == 3.0


def test_a_variant_that_was_skipped_is_not_judged(bench):
    rows = [row(bench.VIT_8M, "image", 1, 1, fp32=40.0, int8=10.0, eager=60.0)]
    assert "torch.compile" not in {line["from"] for line in bench.ratios_reached(rows)}


def test_sizes_of_both_towers_add_up(bench):
    sizes = {
        bench.VIT_8M: {"image-portable": 9_000_000, "text-portable": 15_500_000, "text-fp32": 1}
    }
    (line,) = bench.sizes_reached(sizes)
    assert line["mb"] == pytest.approx(24.5) and line["asked"] == 25.5


def test_rows_of_one_input_come_first_and_have_a_file_each(bench, tmp_path):
    options = argparse.Namespace(batches=[1, 16], models=[bench.VIT_8M], work=tmp_path)
    places = bench.places(options, threads=2)
    assert [place["batch"] for place in places] == [1, 1, 16, 16]
    assert len({bench.row_file(options, place) for place in places}) == 4
