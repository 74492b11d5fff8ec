"""Models are named at once, load once and late, and a bad one does not take the page down."""

import subprocess
import sys

import pytest
from angle_model import AngleModel

from tiny_bundle import write_tiny_bundle
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.model_registry import FAILED, MAX_MODELS, READY, WAITING, ModelRegistry
from tinyclip_demo.service import DemoService
from tinyclip_edge.errors import BundleError, ConfigError, ModelError


@pytest.fixture
def bundle(tmp_path):
    write_tiny_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_bundle_shows_its_facts_before_it_is_loaded(bundle):
    (slot,) = ModelRegistry([str(bundle)]).slots
    assert slot.state == WAITING
    assert (slot.spec.image_size, slot.spec.embedding_dim, slot.runtime) == (8, 4, "onnxruntime")
    with pytest.raises(ModelError, match="still loading"):
        slot.embedder.encode_text(["cat"])


def test_naming_models_imports_no_framework(bundle):
    code = (
        "import sys; from tinyclip_demo.model_registry import ModelRegistry;"
        f"ModelRegistry(['starter-teacher', {str(bundle)!r}]);"
        "print([m for m in ('torch', 'open_clip', 'gradio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_models_load_once_and_a_bad_one_is_reported(bundle, capsys):
    registry = ModelRegistry([str(bundle), str(bundle.parent / "nowhere")])
    registry.load_all()
    assert registry.states() == (READY, FAILED)
    assert "nowhere" in registry.slots[1].error and "\n" not in registry.slots[1].error
    assert "nowhere" in capsys.readouterr().err
    loaded = registry.slots[0].embedder
    registry.load_all()
    assert registry.slots[0].embedder is loaded
    assert registry.ready((0, 1)) == (0,)
    with pytest.raises(ModelError, match="nowhere"):
        registry.ready((1,))


def test_a_changed_bundle_fails_alone(bundle):
    for file in (bundle / "onnx").glob("vision*.onnx"):
        file.write_bytes(file.read_bytes() + b"x")
    registry = ModelRegistry([str(bundle)])
    registry.load_all()
    assert registry.states() == (FAILED,)
    assert "has changed" in registry.slots[0].error


def test_asking_starts_the_loading_and_waits(bundle):
    service = DemoService(ModelRegistry([str(bundle)]), Gallery("one", (b"x",), ("x",)))
    *_, (ready, settled) = service.loaded_models(None)
    assert (ready, settled) == ((0,), True)


def test_a_precision_that_the_bundle_has_not(bundle):
    with pytest.raises(BundleError, match="int7"):
        ModelRegistry([f"{bundle}@int7"])


def test_adding_models(bundle):
    registry = ModelRegistry([AngleModel("teacher", {}, {})])
    name = registry.add(f" {bundle} ")
    assert registry.names == ("teacher", name)
    for source, message in ((str(bundle), "already"), ("  ", "no model")):
        with pytest.raises(ConfigError, match=message):
            registry.add(source)
    full = ModelRegistry([AngleModel(str(i), {}, {}) for i in range(MAX_MODELS)])
    with pytest.raises(ConfigError, match=str(MAX_MODELS)):
        full.add(str(bundle))


def test_choosing_models():
    registry = ModelRegistry([AngleModel(name, {}, {}) for name in "abc"])
    assert registry.numbers(None) == (0, 1, 2)
    assert registry.numbers(["c", "a"]) == (0, 2)
    for nothing in ([], ["gone"]):
        with pytest.raises(ConfigError, match="tick at least one"):
            registry.numbers(nothing)


def test_no_model_is_an_error_that_names_the_options():
    with pytest.raises(ConfigError, match="--student"):
        ModelRegistry([])
