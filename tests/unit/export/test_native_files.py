"""``--native``: which targets have files of their own, and what is said without their packages."""

import importlib.util
import sys
import types

import pytest

from tinyclip_edge import child
from tinyclip_edge.errors import ConfigError, MissingExtraError, ModelError
from tinyclip_edge.targets import TARGETS
from tinyclip_export.bundle import native, qnn_context


def without(monkeypatch, name):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda each: None if each == name else real(each)
    )


def test_only_targets_of_the_table_have_native_files():
    assert set(native.NATIVE) <= set(TARGETS)
    for target in (None, "x86", "android"):
        with pytest.raises(ConfigError, match=r"--native is for a --target .*: qnn, coreml"):
            native.check_native(target)


@pytest.mark.parametrize(
    ("target", "package", "extra"),
    [("qnn", "onnxruntime_qnn", "qnn"), ("coreml", "coremltools", "coreml")],
)
def test_a_missing_package_is_named(target, package, extra, monkeypatch):
    without(monkeypatch, package)
    with pytest.raises(MissingExtraError, match=rf"tinyclip-edge\[{extra}\]"):
        native.NATIVE[target](types.SimpleNamespace(), types.SimpleNamespace())


def test_what_the_compiler_says_is_one_line(monkeypatch, tmp_path):
    script = "import sys; sys.exit('loading\\nnode Erf is not for this chip')"
    monkeypatch.setattr(child, "child_command", lambda *_: [sys.executable, "-c", script])
    with pytest.raises(ModelError, match="cannot compile it: node Erf is not for this chip"):
        qnn_context._compiled(tmp_path / "a.onnx", tmp_path / "b.onnx", 60)
