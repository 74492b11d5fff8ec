from __future__ import annotations

import ctypes
import platform

import numpy as np
import pytest
from onnx import TensorProto, helper

from tinyclip_edge.errors import BundleError, TinyClipError
from tinyclip_edge.runtime import cpu
from tinyclip_edge.runtime.session import OnnxSession, Tower, session_options

IMAGE = ("pixel_values", "image_embeds")


@pytest.fixture(autouse=True)
def forget_the_cpu():
    for cached in (cpu.int8_saturates, cpu.processor):
        cached.cache_clear()
    yield
    for cached in (cpu.int8_saturates, cpu.processor):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("machine", "flags", "saturates", "kind"),
    [
        ("x86_64", "fpu sse2 avx avx2", True, "x86-avx2"),
        ("x86_64", "avx2 avx512f avx512bw", True, "x86-avx2"),
        ("x86_64", "avx2 avx512f avx512_vnni", False, "x86-vnni"),
        ("AMD64", "avx2 avx_vnni", False, "x86-vnni"),
        ("x86_64", "fpu sse2 avx", True, "x86"),
        ("AMD64", None, True, "x86"),  # unknown flags: the safe side
        ("aarch64", "asimd asimddp", False, "arm64"),
        ("arm64", None, False, "arm64"),
        ("riscv64", None, False, None),
    ],
)
def test_which_processors_saturate(monkeypatch, tmp_path, machine, flags, saturates, kind):
    path = tmp_path / "cpuinfo"
    if flags is not None:
        path.write_text(f"processor\t: 0\nmodel name\t: X\nflags\t\t: {flags}\n\nprocessor : 1\n")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu, "cpu_flags", lambda original=cpu.cpu_flags: original(path))
    assert cpu.int8_saturates() is saturates
    assert cpu.processor() == kind


class MacSystem:
    """The C library of macOS, as far as sysctlbyname goes."""

    def __init__(self, values):
        self.values = values

    def sysctlbyname(self, name, value, size, _new, _length):
        if (content := self.values.get(name.decode())) is None:
            return -1
        value.raw = content.ljust(len(value), b"\xff")
        size._obj.value = len(content)
        return 0


ONE, ZERO = (number.to_bytes(4, "little") for number in (1, 0))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"hw.optional.avx2_0": ONE}, "x86-avx2"),
        ({"hw.optional.avx2_0": ONE, "hw.optional.avx512vnni": ONE}, "x86-vnni"),
        ({"hw.optional.avx2_0": ZERO}, "x86"),
        ({}, "x86"),
    ],
)
def test_macos_is_asked_by_sysctl(monkeypatch, values, kind):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: MacSystem({**values, "hw.model": b"Mac14,2\0"}))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert cpu.system_value("hw.model") == b""
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert cpu.processor() == kind
    assert cpu.system_value("hw.model") == b"Mac14,2"


@pytest.mark.parametrize(("answers", "kind"), [({40}, "x86-avx2"), (set(), "x86")])
def test_windows_is_asked_by_the_number_of_a_feature(monkeypatch, answers, kind):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    monkeypatch.setattr(cpu, "_windows_feature", lambda asked: asked in answers)
    assert cpu.processor() == kind


def test_flags_of_arm_and_of_no_file(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert cpu.cpu_flags(path) == {"fp", "asimd", "asimddp"}
    assert cpu.cpu_flags(tmp_path / "none") == frozenset()


def test_options():
    import onnxruntime as ort

    options = session_options(threads=2, precise_int8=True)
    assert options.intra_op_num_threads == 2
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.x64quantprecision") == "1"
    for threads in (0, -1, 1.5, True, 10**9):
        with pytest.raises(TinyClipError, match="threads must be 1 to 1,024"):
            session_options(threads=threads)


@pytest.mark.parametrize(("requested", "saturates"), [(True, True), (True, False), (False, True)])
def test_a_file_runs_precisely_where_it_would_overflow(
    monkeypatch, shared_tiny_bundle, requested, saturates
):
    from tinyclip_edge.runtime import session

    options = {}

    def record(**settings):
        options.update(settings)
        return session_options(**settings)

    monkeypatch.setattr(session, "int8_saturates", lambda: saturates)
    monkeypatch.setattr(session, "session_options", record)
    path = shared_tiny_bundle.folder / "onnx/vision_model.onnx"
    Tower(path, names=IMAGE, precise_int8=requested)
    assert options["precise_int8"] is (requested and saturates)


def test_an_ort_file_of_8_bit_weights_is_refused_where_they_overflow(monkeypatch, tmp_path):
    """Its kernels were chosen when it was written; its embeddings had a cosine of 0.98."""
    from tinyclip_edge.runtime import session

    monkeypatch.setattr(session, "int8_saturates", lambda: True)
    with pytest.raises(
        BundleError, match=r"vision\.ort: its 8-bit weights overflow .* without VNNI"
    ):
        OnnxSession(tmp_path / "vision.ort", precise_int8=True)


def test_low_memory_options():
    options = session_options(low_memory=True)
    assert options.intra_op_num_threads == 1
    assert not options.enable_cpu_mem_arena and not options.enable_mem_pattern
    assert session_options(low_memory=True, threads=2).intra_op_num_threads == 2


def test_a_broken_graph_and_other_names(tmp_path, shared_tiny_bundle):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x08\x07no graph")
    with pytest.raises(BundleError, match=r"broken\.onnx does not load") as caught:
        Tower(path, names=IMAGE)
    assert "\n" not in str(caught.value)
    text = shared_tiny_bundle.folder / "onnx/text_model.onnx"
    with pytest.raises(BundleError, match="must have input pixel_values and output image_embeds"):
        Tower(text, names=IMAGE)


def test_nan_and_wrong_shapes_are_bundle_errors(shared_tiny_bundle):
    tower = Tower(shared_tiny_bundle.folder / "onnx/vision_model.onnx", names=IMAGE)
    with pytest.raises(BundleError, match="not finite"):
        tower(np.full((1, 3, 8, 8), np.nan, dtype=np.float32))
    with pytest.raises(BundleError, match="failed on"):
        tower(np.zeros((1, 3, 9, 8), dtype=np.float32))


@pytest.mark.parametrize("checked", [True, False], ids=["checked here", "as installed"])
@pytest.mark.parametrize("place", ["../secret", "{folder}/secret", "link"])
def test_weights_outside_the_bundle_are_not_read(tmp_path, monkeypatch, place, checked):
    """An ONNX file may name another file for a tensor's bytes."""
    if checked:
        monkeypatch.setattr("tinyclip_edge.runtime.session.READS_OUTSIDE_FILES", True)
    folder, secret = tmp_path / "bundle", tmp_path / "secret"
    folder.mkdir()
    secret.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (folder / "link").symlink_to(secret)
    tensor = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", place.format(folder=tmp_path)), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        BundleError, match="does not load.*not in the model's folder" if checked else "load"
    ):
        OnnxSession(folder / "model.onnx")
