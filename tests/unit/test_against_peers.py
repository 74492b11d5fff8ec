"""What contenders are compared by, and how their processes are asked."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import against_peers
import peer_models
from peer_models import Contender, Inputs
from result_tables.exported import peers


def test_the_reference_agrees_with_itself():
    unit = np.eye(4, dtype=np.float32)
    near = against_peers.agreement((unit, unit), (unit, unit))
    assert set(near.values()) == {1.0}


def test_one_turned_picture_shows():
    unit = np.eye(4, dtype=np.float32)
    turned = unit[[1, 1, 2, 3]]  # picture 0 now looks like text 1
    near = against_peers.agreement((unit, unit), (turned, unit))
    assert (near["image_cosine"], near["image_cosine_min"]) == (0.75, 0.0)
    assert (near["text_cosine"], near["same_label"]) == (1.0, 0.75)


def figures(image_ms, text_ms):
    times = {"image": {"median": image_ms}, "text": {"median": text_ms}}
    names = ("image_cosine", "image_cosine_min", "text_cosine", "text_cosine_min")
    return {"ms": times, "bytes": 2_500_000, **dict.fromkeys(names, 0.9987), "same_label": 0.98}


def test_a_table_has_ratios_to_ours_and_why_a_peer_is_missing():
    result = {
        "contenders": {"slow fp32": figures(6.0, 5.0), "ours int8": figures(4.0, 2.0)},
        "missing": {"peer": "no such package"},
    }
    lines = peers(result).splitlines()
    assert lines[2] == (
        "| ours int8 | 1.00 (4.00 ms) | 1.00 (2.00 ms) | 2.5 | 0.9987 (0.9987) | 0.9987 (0.9987) "
        "| 98.0% |"
    )
    assert lines[3].startswith("| slow fp32 | 1.50 | 2.50 | 2.5 |")
    assert lines[-1] == "Not run: peer: no such package"


@pytest.fixture
def doubled(tmp_path):
    """A contender whose towers double their input, in a process of its own."""
    paths = []
    for name, kind in (("image", TensorProto.FLOAT), ("text", TensorProto.INT64)):
        nodes = [
            helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["f", "f"], [f"{name}_embeds"]),
        ]
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", kind, ["B", 3])],
            [helper.make_tensor_value_info(f"{name}_embeds", TensorProto.FLOAT, ["B", 3])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        paths.append(tmp_path / f"{name}.onnx")
        onnx.save(model, paths[-1])
    return Contender("doubled", "onnx", Path(sys.executable), str(paths[0]), str(paths[1]), 0)


def test_workers_answer_over_their_pipes_in_turns(doubled):
    workers = {name: against_peers.Worker(doubled, 1) for name in ("a", "b")}
    pixels = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    embeddings, seconds = workers["a"]("image", pixels)
    assert embeddings.tolist() == [[2, 4, 6], [8, 10, 12]]
    assert set(seconds) == {"wall", "cpu"}
    assert workers["b"]("text", np.array([[1, 2, 3]]))[0].tolist() == [[2, 4, 6]]
    inputs = Inputs(pixels, np.array([[1, 2, 3]]))
    times = against_peers.interleaved(workers, inputs, rounds=2)
    assert {(name, tower) for name in times for tower in times[name]} == {
        (name, tower) for name in workers for tower in ("image", "text")
    }
    assert all(times[name]["image"]["min"] > 0 for name in workers)
    for worker in workers.values():
        worker.close()


def test_a_worker_that_does_not_start_says_why(doubled, tmp_path):
    broken = tmp_path / "image.onnx"
    broken.write_bytes(b"nothing")
    with pytest.raises(EOFError, match=r"image\.onnx"):
        against_peers.Worker(doubled, 1)


def test_each_precision_of_a_peer_is_a_contender(tmp_path):
    out = tmp_path / "openvino"
    out.mkdir()
    for precision in ("fp32", "int8"):
        for tower in ("image", "text"):
            (out / f"{tower}-{precision}.xml").write_bytes(b"12")
            (out / f"{tower}-{precision}.bin").write_bytes(b"12345")
    first, second = peer_models._peer("openvino", tmp_path, Path("python"))
    assert (first.name, second.name) == ("openvino fp32", "openvino int8")
    assert (first.runtime, first.bytes) == ("openvino", 14)
    assert first.text == str(out / "text-fp32.xml")
