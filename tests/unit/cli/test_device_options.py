"""``--device`` of every command that runs a bundle: the same words, and never the CPU instead."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from recorded_bundle import change_manifest, encoded
from tinyclip_edge import ImageIndex
from tinyclip_edge.runtime.devices import CPU_PROVIDER


@pytest.fixture
def words(tmp_path, monkeypatch, recorded_bundle):
    """The words of each command, in a folder with pictures and an index of the CPU's."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("red", "lime", "blue"):
        Image.new("RGB", (12, 9), name).save(photos / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    of_bundle = ("--bundle", recorded_bundle)
    return {
        "bench": (recorded_bundle, "--rounds", 3),
        "check": (recorded_bundle,),
        "classify": (photos / "red.png", "--labels", "cat,re", *of_bundle),
        "embed": (photos, "--out", "vectors", *of_bundle),
        "index": (photos, *of_bundle),
        "search": ("cat", *of_bundle),
        "serve": (recorded_bundle,),
        "watch": (photos, *of_bundle),
    }


@pytest.mark.parametrize(
    "command", ["bench", "check", "classify", "embed", "index", "search", "serve", "watch"]
)
def test_a_device_that_is_not_here_is_refused_by_every_command(
    command, command_line, words, monkeypatch
):
    assert command_line("index", *words["index"])[0] == 0  # what is searched, on the CPU
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU_PROVIDER])
    code, out, err = command_line(command, *words[command], "--device", "cuda")
    assert (code, out) == (2, "")
    assert "has no CUDAExecutionProvider; it comes with onnxruntime-gpu" in err
    code, _, err = command_line(command, *words[command], "--device", "cudo")
    assert code == 2 and "no device 'cudo'; did you mean 'cuda'?" in err
    code, _, err = command_line(command, *words[command], "--device-option", "fast")
    assert code == 2 and "--device-option 'fast': write KEY=VALUE" in err


@pytest.mark.usefixtures("counted_as_device")
def test_the_device_says_what_it_runs(command_line, words, twin):
    _, on_cpu, _ = command_line("classify", *words["classify"])
    code, out, err = command_line("classify", *words["classify"], "--device", twin)
    assert code == 0 and out == on_cpu
    assert [line.partition(" nodes ")[0] for line in err.splitlines()] == [
        "image tower in int8:",
        "text tower in int8:",
    ]
    assert err.count(" on twin") == 2


@pytest.mark.usefixtures("counted_as_device")
def test_an_index_goes_on_where_the_device_answers_right(command_line, words, twin, tmp_path):
    """Both devices gave the recorded answers in the index's precision, so their rows may mix."""
    fp32 = (*words["index"], "--precision", "fp32")
    assert command_line("index", *fp32)[0] == 0
    before = ImageIndex.load("pictures.npz")
    Image.new("RGB", (12, 9), "black").save(tmp_path / "photos/black.png")
    # Without --precision: the index's, not the one that the device prefers.
    code, _, err = command_line("index", *words["index"], "--device", twin)
    assert code == 0 and "image tower in fp32: nodes" in err
    after = ImageIndex.load("pictures.npz")
    assert len(after) == 4 and after.model_hash == before.model_hash
    np.testing.assert_allclose(after[[key in before for key in after]].features, before.features)
    assert command_line("search", *words["search"])[0] == 0  # on the CPU again


@pytest.mark.usefixtures("counted_as_device")
def test_an_index_takes_no_vector_of_a_device_that_errs(
    command_line, words, twin, tmp_path, recorded_bundle
):
    assert command_line("index", *words["index"])[0] == 0
    before = (tmp_path / "pictures.npz").read_bytes()
    golden = json.loads((recorded_bundle / "manifest.json").read_text())["golden"]
    golden["embeddings"]["int8"]["image"] = encoded(np.eye(4)[:3])
    change_manifest(recorded_bundle, golden=golden)
    Image.new("RGB", (12, 9), "black").save(tmp_path / "photos/black.png")
    for command in ("index", "search", "embed"):
        code, _, err = command_line(command, *words[command], "--device", twin)
        assert code == 2 and "device twin computes other embeddings" in err
    assert (tmp_path / "pictures.npz").read_bytes() == before
    change_manifest(recorded_bundle, golden={})
    code, _, err = command_line("index", *words["index"], "--device", twin)
    assert code == 2 and "has no golden vectors for int8" in err


@pytest.mark.usefixtures("counted_as_device")
def test_other_processes_embed_on_the_device_too(command_line, words, twin, monkeypatch):
    from tinyclip_edge.collection import embed_task

    opened = []
    load = embed_task.EdgeCLIP.load

    def noted(*places, **options):
        opened.append((options["device"], options["device_options"]))
        return load(*places, **options)

    monkeypatch.setattr(embed_task.EdgeCLIP, "load", noted)
    code, _, _ = command_line(
        "embed", *words["embed"], "--device", twin, "--device-option", "level=3"
    )
    # The command's own look at the device, then the worker's.
    assert code == 0 and opened == [(twin, {"level": "3"})] * 2


def test_the_rows_of_bench_name_the_device(
    command_line, words, twin, counted_as_device, monkeypatch
):
    from tinyclip_edge.evaluation import bench

    asked = []
    figures = {"cold_start_ms": 1.0, "images_per_second": 1.0, "text_only_mb": 1.0, "peak_mb": 1.0}
    monkeypatch.setattr(bench, "_probe", lambda label, model: asked.append(model) or figures)
    code, out, _ = command_line("bench", *words["bench"], "--device", twin, "--json")
    rows = json.loads(out)["rows"]
    assert code == 0 and [row["device"] for row in rows] == [twin, twin]
    assert all(row["placement"]["image"]["nodes"] > 0 for row in rows)
    assert [entry["device"] for entry in asked] == [twin, twin]  # probes measure it there, too
    _, out, _ = command_line("bench", *words["bench"], "--device", twin)
    assert "recorded fp32 image: nodes" in " ".join(out.split())
