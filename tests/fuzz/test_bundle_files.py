"""Any bytes in the files of a bundle, of an index, and in images."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mangling import few, junk, mangled, mangled_json, only_our_errors, quick
from PIL import Image

from tiny_bundle import CONTEXT, DIM, SIZE, write_tiny_bundle
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.runtime.classifier import EdgeClassifier
from tinyclip_edge.runtime.golden import replay
from tinyclip_edge.runtime.plain_tokenizer import PlainTokenizer
from tinyclip_edge.runtime.preprocess import Preprocess
from tinyclip_edge.runtime.session import Tower
from tinyclip_edge.runtime.tokenizer import ClipTokenizer

PICTURE = Image.fromarray(np.arange(12 * 9 * 3, dtype=np.uint8).reshape(9, 12, 3))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("fuzz") / "bundle")


@pytest.fixture(scope="module")
def golden_manifest(bundle):
    """The manifest with golden vectors, so that these are read too."""
    import base64

    content = json.loads((bundle.folder / "manifest.json").read_text())
    rows = base64.b64encode(np.eye(1, DIM, dtype="<f4").tobytes()).decode()
    png = base64.b64encode(encoded("PNG")).decode()
    content["golden"] = {
        "images": [{"png": png, "pixels_sha256": "0"}],
        "texts": [{"text": "cat", "input_ids": [1, 2]}],
        "embeddings": {"int8": {"image": rows, "text": rows}},
    }
    return content


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, kind)
    return buffer.getvalue()


def use(folder, **options) -> None:
    clip = EdgeCLIP.load(folder, **options)
    clip.classify(PICTURE, ["cat", "red"])
    clip.spec  # noqa: B018


@quick
@given(data=st.data())
def test_manifest(bundle, golden_manifest, data):
    path = bundle.folder / "manifest.json"
    whole = path.read_bytes()
    path.write_bytes(data.draw(mangled_json(golden_manifest)))
    try:
        only_our_errors(lambda: use(bundle.folder))
        only_our_errors(lambda: replay(bundle.folder, "int8"))
        only_our_errors(lambda: EdgeClassifier.load(bundle.folder))
    finally:
        path.write_bytes(whole)


@quick
@given(data=st.data())
def test_preprocessor_config(bundle, data):
    path = bundle.folder / "preprocessor_config.json"
    whole = path.read_bytes()
    path.write_bytes(data.draw(mangled_json(json.loads(whole))))
    try:
        only_our_errors(lambda: use(bundle.folder, verify=False))
    finally:
        path.write_bytes(whole)


@quick
@given(data=st.data())
def test_tokenizer(bundle, tmp_path, data):
    content = json.loads((bundle.folder / "tokenizer.json").read_text())
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data.draw(mangled_json(content)))
    only_our_errors(lambda: ClipTokenizer.from_file(path, CONTEXT)(["a cat", "é", ""]))
    plain = {"clean": "lower", "end": 3}
    only_our_errors(lambda: PlainTokenizer(path, CONTEXT, plain).encode("a cat"))


@quick
@given(settings=mangled({"clean": "lower", "end": 3, "dropped": None}))
def test_tokenizer_settings_of_a_manifest(bundle, settings):
    path = bundle.folder / "tokenizer.json"
    only_our_errors(lambda: PlainTokenizer(path, CONTEXT, settings).encode("a cat"))


@quick
@given(text=st.text(max_size=200))
def test_texts(bundle, text):
    features = EdgeCLIP.load(bundle.folder).encode_text([text])
    assert features.shape == (1, DIM) and np.isfinite(features).all()


@few
@given(data=st.data())
def test_towers(bundle, tmp_path, data):
    path = tmp_path / "tower.onnx"
    path.write_bytes(data.draw(junk((bundle.folder / "onnx/vision_model.onnx").read_bytes())))
    names = ("pixel_values", "image_embeds")
    pixels = np.zeros((1, 3, SIZE, SIZE), np.float32)
    only_our_errors(lambda: Tower(path, names=names)(pixels))
    only_our_errors(lambda: EdgeClassifier.load(path).classify(PICTURE))


@quick
@given(data=st.data())
def test_classifier_facts(classifier_file, data):
    import onnx

    model = onnx.load(str(classifier_file))
    entry = model.metadata_props[0]
    entry.value = data.draw(mangled_json(json.loads(entry.value)).map(lambda b: b.decode("latin1")))
    path = classifier_file.with_name("changed.onnx")
    onnx.save(model, str(path))
    only_our_errors(lambda: EdgeClassifier.load(path).classify(PICTURE))


@pytest.fixture(scope="module")
def classifier_file(bundle, tmp_path_factory):
    import onnx

    model = onnx.load(str(bundle.folder / "onnx/vision_model.onnx"))
    for node in model.graph.node:
        node.output[:] = ["probabilities" if o == "image_embeds" else o for o in node.output]
    model.graph.output[0].name = "probabilities"
    entry = model.metadata_props.add()
    entry.key = "tinyclip_classifier"
    facts = {
        "version": 1,
        "labels": ["a", "b", "c", "d"],
        "preprocessor": {"size": SIZE},
        "precise_int8": False,
    }
    entry.value = json.dumps(facts)
    path = tmp_path_factory.mktemp("classifier") / "classifier.onnx"
    onnx.save(model, str(path))
    assert len(EdgeClassifier.load(path).classify(PICTURE)) == 4
    return path


@quick
@given(data=st.data())
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "ICO", "PPM"])
def test_images(kind, data):
    content = data.draw(junk(encoded(kind)))
    only_our_errors(lambda: Preprocess(8, 8)(content))


@quick
@given(
    shape=st.lists(st.integers(0, 5), max_size=4),
    kind=st.sampled_from(["uint8", "int8", "int64", "float16", "float32", "bool", "object", "U3"]),
)
def test_arrays(shape, kind):
    only_our_errors(lambda: Preprocess(8, 8)(np.zeros(shape, dtype=kind)))
