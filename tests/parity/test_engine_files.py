"""OpenVINO, LiteRT and ExecuTorch run their own files of a bundle, as the documentation says.

`make devices` runs it, in an environment of its own for each engine.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.api.bundles import check
from tinyclip_edge.config.preset import load_preset
from tinyclip_edge.engines import ENGINES
from tinyclip_edge.errors import BundleError
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.golden import decode_embeddings, decode_image
from tinyclip_export.engines.replay import replay_engine
from toy_export import export_for_target

pytestmark = pytest.mark.provider

PAGE = Path(__file__).parents[2] / "docs/howto/engines.md"
TITLES = {"openvino": "OpenVINO", "litert": "LiteRT", "executorch": "ExecuTorch"}


@pytest.fixture(scope="module")
def engine():
    """The one that this environment is for."""
    (name,) = (
        name for name, entry in ENGINES.items() if all(find_spec(each) for each in entry.packages)
    )
    return name


@pytest.fixture(scope="module")
def bundle(engine, toy_teacher_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines") / "bundles/mine"
    folder.parent.mkdir()
    export_for_target(engine, toy_teacher_folder, folder)
    return folder


def snippets(title):
    """Return the Python of the page's common part and of one engine's section."""
    before, *sections = re.split(r"^### ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (section,) = (each for each in sections if each.startswith(f"{title}\n"))
    return re.findall(r"```python\n(.*?)```", before + section.split("\n## ")[0], flags=re.DOTALL)


def test_the_documented_lines_give_the_recorded_embedding(bundle, engine, tmp_path, monkeypatch):
    manifest = Manifest.read(bundle)
    golden = manifest.golden["images"]
    decode_image(golden[0]["png"]).save(tmp_path / "photo.png")
    (tmp_path / "bundles").symlink_to(bundle.parent)
    monkeypatch.chdir(tmp_path)
    names = {}
    fixed = ENGINES[engine].fixed
    for code in snippets(TITLES[engine]):
        if fixed or "np.pad" not in code:
            exec(code, names)
    precision = "int8" if engine != "executorch" else "fp32"
    entry = manifest.extras["engine"]
    recorded = decode_embeddings(entry["golden"][precision]["image"], len(golden))
    assert names["image"].shape == (1, manifest.embedding_dim)
    # In the documented form OpenVINO may compute in bfloat16.
    assert float(names["image"][0] @ recorded[0]) > 0.999
    length = len(names["clip"].token_ids("a red bicycle"))
    assert names["ids"].shape[1] == (manifest.context_length if fixed else length)


def largest_int8_weight(path):
    """Return the largest magnitude of the int8 weights of a file of OpenVINO."""
    import openvino

    weights = [
        operation.get_data().astype(int)
        for operation in openvino.Core().read_model(path).get_ordered_ops()
        if operation.get_type_name() == "Constant"
        and operation.get_element_type() == openvino.Type.i8
    ]
    assert len(weights) > 10
    return max(abs(values).max() for values in weights)


def test_every_file_passed_its_gates_here(bundle, engine):
    manifest = Manifest.read(bundle)
    entry = manifest.extras["engine"]
    assert entry["name"] == engine
    assert entry["inputs"]["ids"] == ("int32" if engine == "litert" else "int64")
    if engine == "openvino":  # it alone multiplies uint8 by int8
        # x86 without VNNI adds two products in int16: 255 * 64 * 2 = 32,640 fits, 65 would not.
        assert largest_int8_weight(bundle / "openvino/vision_model_quantized.xml") <= 64
    assert set(entry["files"]) == set(load_preset(engine).engine.precisions)
    for precision, figures in entry["verification"].items():
        gated = {k: v for k, v in figures["checks"].items() if not k.endswith("latency")}
        assert all(gated.values()), (precision, gated)
        assert set(gated) >= {"image values", "text values", "ranking", "reload"}
        # Random towers are hard on int8 and leave it above this; floats differ in the last bits.
        least = 0.995 if precision == "int8" else 0.9999
        assert min(figures[tower]["cosine_min"] for tower in ("image", "text")) > least
        assert replay_engine(bundle, precision).min_cosine > 0.9999
        assert set(entry["files"][precision].values()) <= set(manifest.files)


def test_check_replays_every_file(bundle, engine):
    result = check(bundle)
    names = [f"{engine} {each}" for each in load_preset(engine).engine.precisions]
    assert [each.name for each in result.forms] == names
    assert result.passed and not result.not_replayed


def test_files_say_nothing_of_this_machine(bundle, engine):
    for path in (bundle / engine).iterdir():
        content = path.read_bytes()
        for trace in (str(bundle.parent), str(Path.home()), str(Path(np.__file__).parents[1])):
            assert trace.encode() not in content, (path, trace)


def test_a_changed_file_does_not_pass_the_check(bundle):
    manifest = Manifest.read(bundle)
    name = next(iter(manifest.extras["engine"]["files"].values()))["image"]
    path = bundle / name
    content = path.read_bytes()
    try:
        path.write_bytes(content + b"\0")
        with pytest.raises(BundleError, match=re.escape(name)):
            manifest.verify_files(bundle)
    finally:
        path.write_bytes(content)
    assert EdgeCLIP.load(bundle).precision == "int8"  # of the ONNX files, as without an engine
