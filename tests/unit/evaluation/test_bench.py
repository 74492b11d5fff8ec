from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.errors import BundleError, ConfigError, ModelError
from tinyclip_edge.evaluation import bench, bench_models, compare_models, open_embedder
from tinyclip_edge.evaluation.probe import peak_megabytes


def test_a_bundle_opens_without_torch(shared_tiny_bundle):
    code = f"""
import sys
from tinyclip_edge.evaluation import open_embedder
clip = open_embedder({str(shared_tiny_bundle.folder)!r}, precision="fp32", threads=1)
assert clip.encode_text(["cat"]).shape == (1, 4)
assert clip.precision == "fp32" and clip.threads == 1
assert not {{"torch", "open_clip", "rich", "webdataset"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_models_that_do_not_open(shared_tiny_bundle, tmp_path):
    with pytest.raises(BundleError, match="no precision 'int4'"):
        open_embedder(str(shared_tiny_bundle.folder), precision="int4")
    with pytest.raises(ModelError, match="not a bundle and has no precision int8"):
        open_embedder(str(tmp_path), precision="int8")
    with pytest.raises(ModelError):
        open_embedder(str(tmp_path))


def test_a_bundle_is_measured_at_each_precision(shared_tiny_bundle):
    report = bench_models([str(shared_tiny_bundle.folder)], batch=3, rounds=3)
    assert [row.label for row in report.rows] == ["bundle fp32", "bundle int8"]
    for row in report.rows:
        assert (
            0 < row.latency.image.min_ms <= row.latency.image.median_ms <= row.latency.image.p95_ms
        )
        assert row.latency.batch == 3
        # A Python that loads numpy and onnxruntime takes more than 50 ms and 20 MB.
        assert row.cold_start_ms > 50 and row.peak_mb > 20
        assert row.images_per_second > 0
    assert report.rows[0].megabytes == pytest.approx(
        EdgeCLIP.load(shared_tiny_bundle.folder, precision="fp32").spec.bytes_on_disk / 1e6
    )
    content = json.loads(json.dumps(report.as_dict()))
    assert content["rows"][1]["spec"]["precision"] == "int8"
    console = Console(width=200)
    with console.capture() as capture:
        console.print(report.table())
    assert "bundle int8" in capture.get()


def test_wrong_models_end_in_one_line(tmp_path):
    with pytest.raises(ModelError, match="at least one model"):
        bench_models([])
    with pytest.raises(ModelError) as caught:
        bench_models([str(tmp_path)])
    assert "\n" not in str(caught.value) and tmp_path.name in str(caught.value)


def test_peak_memory_sees_a_large_array():
    before = peak_megabytes()
    block = np.ones(60_000_000, dtype=np.uint8)
    assert block.size and peak_megabytes() >= before


def test_both_precisions_of_a_bundle_side_by_side(kit, shared_tiny_bundle):
    folder = str(shared_tiny_bundle.folder)
    comparison = compare_models({"fp32": (folder, "fp32"), "int8": (folder, "int8")}, rounds=3)
    one, two = comparison.rows
    assert (one.spec.precision, two.spec.precision) == ("fp32", "int8")
    assert one.sets[0].retrieval == two.sets[0].retrieval  # the same graphs under two names


def test_models_of_one_folder_name_keep_their_rows(shared_tiny_bundle, tmp_path, monkeypatch):
    folders = [str(tmp_path / run / "student") for run in ("a", "b")]
    for folder in folders:
        shutil.copytree(shared_tiny_bundle.folder, folder)
    figures = {"cold_start_ms": 1.0, "images_per_second": 1.0, "text_only_mb": 1.0, "peak_mb": 1.0}
    monkeypatch.setattr(bench, "_probe", lambda *_: figures)
    report = bench_models([*folders, str(shared_tiny_bundle.folder)], rounds=3)
    assert [row.label for row in report.rows] == [
        *(f"{folder} {precision}" for folder in folders for precision in ("fp32", "int8")),
        "bundle fp32",
        "bundle int8",
    ]


def test_a_probe_that_takes_too_long_ends_in_one_line(shared_tiny_bundle, monkeypatch):
    monkeypatch.setattr(bench, "PROBE_TIMEOUT_S", 0.01)
    with pytest.raises(ModelError, match=r"bundle fp32: not measured within 0\.01 s") as caught:
        bench_models([str(shared_tiny_bundle.folder)], rounds=3)
    assert "\n" not in str(caught.value)


def test_unknown_and_absent_devices(shared_tiny_bundle, tmp_path, monkeypatch):
    for model in (str(shared_tiny_bundle.folder), str(tmp_path)):
        with pytest.raises(ConfigError, match=r"unknown device 'gpu' \(auto, cpu or cuda\)"):
            open_embedder(model, device="gpu")
    with pytest.raises(ConfigError, match="did you mean 'cuda'"):
        open_embedder(str(tmp_path), device="cuda:0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ModelError, match="sees no CUDA device; use cpu or auto"):
        open_embedder("starter-teacher", device="cuda")
