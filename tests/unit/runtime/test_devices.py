"""Devices other than the CPU, as far as they show without one: messages, counts, proof."""

from __future__ import annotations

import base64
import json
import pickle
import sys
from types import ModuleType

import numpy as np
import onnxruntime as ort
import pytest
from typer.testing import CliRunner

from recorded_bundle import change_manifest, encoded
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.api import check
from tinyclip_edge.cli.app import app
from tinyclip_edge.errors import DeviceError
from tinyclip_edge.runtime import devices, placement, proof
from tinyclip_edge.runtime.devices import CPU_PROVIDER, Device


def turn_the_second_image_around(folder):
    golden = json.loads((folder / "manifest.json").read_text())["golden"]
    rows = np.frombuffer(base64.b64decode(golden["embeddings"]["fp32"]["image"]), "<f4")
    rows = rows.reshape(3, -1) * np.array([[1], [-1], [1]])
    golden["embeddings"]["fp32"]["image"] = encoded(rows)
    change_manifest(folder, golden=golden)


def test_a_device_that_does_not_exist_is_refused():
    with pytest.raises(DeviceError, match=r"no device 'cude'.*cuda"):
        Device("cude")
    with pytest.raises(DeviceError, match="cpu takes no options"):
        Device("cpu", {"threads": "2"})
    with pytest.raises(DeviceError, match=r"device option 'a': \[1\] is neither"):
        Device("cuda", {"a": [1]})


@pytest.mark.parametrize(
    ("device", "package"),
    [
        ("cuda", "onnxruntime-gpu"),
        ("tensorrt", "onnxruntime-gpu"),
        ("coreml", "onnxruntime on macOS"),
        ("directml", "onnxruntime-directml"),
        ("openvino", "onnxruntime-openvino"),
        ("qnn", "onnxruntime-qnn"),
        ("webgpu", "onnxruntime-ep-webgpu"),
    ],
)
def test_a_missing_package_is_named(shared_tiny_bundle, monkeypatch, device, package):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU_PROVIDER])
    entry = devices.PROVIDERS[device]
    if entry.plugin:
        monkeypatch.setitem(sys.modules, entry.plugin, None)
    with pytest.raises(DeviceError, match=rf"has no {entry.name}; it comes with {package}"):
        EdgeCLIP.load(shared_tiny_bundle.folder, device=device)


def test_a_plugin_without_its_hardware_is_told(shared_tiny_bundle, monkeypatch):
    plugin = ModuleType("onnxruntime_ep_webgpu")
    plugin.get_library_path = lambda: "libplugin.so"
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    monkeypatch.setattr(devices, "_registered", set())
    registered = []
    monkeypatch.setattr(
        ort,
        "register_execution_provider_library",
        lambda *names: registered.append(names),
        raising=False,
    )
    monkeypatch.setattr(ort, "get_ep_devices", list, raising=False)
    for _ in range(2):
        with pytest.raises(DeviceError, match="installed but does not start; it needs a GPU with"):
            EdgeCLIP.load(shared_tiny_bundle.folder, device="webgpu")
    assert registered == [("WebGpuExecutionProvider", "libplugin.so")]  # once a process


def test_a_plugin_that_does_not_load_is_told(shared_tiny_bundle, monkeypatch, tmp_path):
    plugin = ModuleType("onnxruntime_qnn")
    plugin.get_library_path = lambda: str(tmp_path / "none.so")
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    with pytest.raises(DeviceError, match="device qnn: onnxruntime_qnn does not load in"):
        EdgeCLIP.load(shared_tiny_bundle.folder, device="qnn")


def test_a_provider_that_onnxruntime_drops_is_no_silent_cpu(shared_tiny_bundle, monkeypatch):
    available = [CPU_PROVIDER, "CUDAExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: available)

    def on_the_cpu(path, options, **_):
        # What onnxruntime does where the driver is missing.
        return session(path, options, providers=[CPU_PROVIDER])

    session = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", on_the_cpu)
    with pytest.raises(DeviceError, match="CUDAExecutionProvider is installed but does not start"):
        EdgeCLIP.load(shared_tiny_bundle.folder, device="cuda")


def test_a_device_on_which_nothing_runs_is_refused(recorded_bundle, twin):
    with pytest.raises(DeviceError, match=r"no node of .*\.onnx runs on twin: all \d+ nodes ran"):
        EdgeCLIP.load(recorded_bundle, device=twin)


@pytest.mark.usefixtures("counted_as_device")
def test_nodes_are_counted_by_device(recorded_bundle, twin):
    import onnx

    clip = EdgeCLIP.load(recorded_bundle, precision="fp32", device=twin)
    graph = onnx.load(recorded_bundle / "onnx/vision_model.onnx").graph
    place = clip.placement["image"]
    assert sorted(clip.placement) == ["image", "text"]
    # Fusions leave fewer nodes than the file has.
    assert 0 < place.nodes <= len(graph.node)
    assert place.cpu_operators == {} and place.cpu_nodes == 0
    assert str(place) == f"{place.nodes:,} on twin"
    on_cpu = EdgeCLIP.load(recorded_bundle, precision="fp32")
    image = np.zeros((8, 8, 3), np.uint8)
    np.testing.assert_array_equal(clip.encode_image([image]), on_cpu.encode_image([image]))
    assert on_cpu.placement == {}
    assert pickle.loads(pickle.dumps(clip)).device.name == twin


def test_operators_on_the_cpu_are_named():
    place = placement.Placement("webgpu", 193, {"MatMulInteger": 20, "Concat": 1})
    assert str(place) == "193 on webgpu, 21 on cpu (MatMulInteger 20, Concat 1)"
    assert place.as_dict()["cpu_nodes"] == 21


@pytest.mark.usefixtures("counted_as_device")
def test_a_device_that_errs_is_refused_with_the_worst_vector(recorded_bundle, twin):
    turn_the_second_image_around(recorded_bundle)
    with pytest.raises(
        DeviceError,
        match=r"device twin computes other embeddings .* fp32: image cosine -1\.0.*image 1\)",
    ):
        EdgeCLIP.load(recorded_bundle, precision="fp32", device=twin)
    assert (
        EdgeCLIP.load(recorded_bundle, precision="fp32", device=twin, verify=False).device.name
        == twin
    )
    (failure,) = check(recorded_bundle, precision="fp32", device=twin).failures
    assert failure.endswith("(golden image 1)")


@pytest.mark.usefixtures("counted_as_device")
def test_auto_takes_the_quickest_that_answers_right(recorded_bundle, twin, monkeypatch):
    times = {"twin": 1.0, "cpu": 2.0}

    def measured(clip, device):
        if times[device] is None:
            raise DeviceError("device twin computes other embeddings")
        return type("Result", (), {"image_ms": times[device]})

    monkeypatch.setattr(proof, "prove", measured)
    assert EdgeCLIP.load(recorded_bundle, device="auto").device.name == twin
    times["twin"] = 3.0
    assert EdgeCLIP.load(recorded_bundle, device="auto").device.name == "cpu"
    times["twin"] = None
    with pytest.warns(UserWarning, match="not used: device twin computes other embeddings"):
        assert EdgeCLIP.load(recorded_bundle, device="auto").device.name == "cpu"


def test_auto_is_the_cpu_where_nothing_else_is(recorded_bundle, monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU_PROVIDER])
    for entry in devices.PROVIDERS.values():
        if entry.plugin:
            monkeypatch.setitem(sys.modules, entry.plugin, None)
    clip = EdgeCLIP.load(recorded_bundle, device="auto")
    assert clip.device == Device() and clip.precision == clip.manifest.default_precision


@pytest.mark.usefixtures("counted_as_device")
def test_check_says_what_runs_where(recorded_bundle, twin):
    result = CliRunner().invoke(
        app, ["check", str(recorded_bundle), "--device", twin, "--precision", "fp32"]
    )
    assert result.exit_code == 0, result.output
    assert "fp32 image: nodes" in result.output and "on twin" in result.output
    refused = CliRunner().invoke(app, ["check", str(recorded_bundle), "--device-option", "fast"])
    assert refused.exit_code != 0
    assert "--device-option 'fast': write KEY=VALUE" in str(refused.exception)
