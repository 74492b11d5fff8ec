"""Bundles: manifest, settings, tokenizer, graphs, classifier and golden vectors."""

from __future__ import annotations

import base64
import io
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from driver import Reader
from hostile import HOSTILE_JSON
from model_mutations import changed_onnx
from mutations import changed_bytes, changed_file, changed_json, named, placed
from PIL import Image

from tiny_bundle import CONTEXT, DIM, SIZE, write_tiny_bundle
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.runtime import bundle as bundles
from tinyclip_edge.runtime.classifier import METADATA, EdgeClassifier
from tinyclip_edge.runtime.plain_tokenizer import PlainTokenizer
from tinyclip_edge.runtime.replay import replay
from tinyclip_edge.runtime.session import Tower
from tinyclip_edge.runtime.tokenizer import ClipTokenizer

PICTURE = Image.fromarray(np.arange(12 * 9 * 3, dtype=np.uint8).reshape(9, 12, 3))
PRECISION = "int8"
MANIFEST, SETTINGS, TOKENIZER = "manifest.json", "preprocessor_config.json", "tokenizer.json"
VISION, TEXT = "onnx/vision_model_quantized.onnx", "onnx/text_model_quantized.onnx"
CLASSIFIER = "onnx/classifier_quantized.onnx"
SETTINGS_OF_TEXTS = {"clean": "lower", "end": 3, "dropped": None}


def encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def classifier(vision: Path) -> bytes:
    """The image tower under another name, its features as if they were probabilities."""
    import onnx

    model = onnx.load(str(vision))
    for node in model.graph.node:
        node.output[:] = ["probabilities" if o == "image_embeds" else o for o in node.output]
    model.graph.output[0].name = "probabilities"
    entry = model.metadata_props.add()
    entry.key = METADATA
    entry.value = json.dumps(
        {
            "version": 1,
            "labels": ["a", "b", "c", "d"],
            "templates": ["a {}"],
            "preprocessor": {"size": SIZE},
            "precise_int8": True,
        }
    )
    return model.SerializeToString()


def valid_bundle(folder: Path) -> Path:
    """A bundle with all that a manifest may name, made once in a folder."""
    bundle = folder / "bundle"
    if bundle.is_dir():
        return bundle
    write_tiny_bundle(bundle)
    (bundle / CLASSIFIER).write_bytes(classifier(bundle / VISION))
    rows = base64.b64encode(np.eye(1, DIM, dtype="<f4").tobytes()).decode()
    replace(
        bundles.Manifest.read(bundle),
        files=bundles.list_files(bundle),
        extras={"classifier": {"files": {PRECISION: CLASSIFIER}}},
        golden={
            "images": [{"png": encoded(PICTURE), "pixels_sha256": "0"}],
            "texts": [{"text": "cat", "input_ids": [1, 2]}],
            "embeddings": {PRECISION: {"image": rows, "text": rows}},
        },
        verification={"pairs": 5, "precisions": {PRECISION: {"image": {"cosine_min": 0.9}}}},
    ).write(bundle)
    return bundle


def use(bundle: Path) -> None:
    """Open the bundle in every way there is."""
    EdgeClassifier.load(bundle).classify(PICTURE)
    clip = EdgeCLIP.load(bundle)
    clip.classify(PICTURE, ["cat", "red"])
    clip.spec  # noqa: B018
    replay(bundle, PRECISION)


def files(*names: str):
    return lambda folder: [
        named(name, (valid_bundle(folder) / name).read_bytes()) for name in names
    ]


def read_bundle(folder: Path, data: bytes) -> None:
    """Read with a manifest that has the hashes of the files as they are now."""
    bundle = valid_bundle(folder)
    manifest = bundle / MANIFEST
    original = manifest.read_bytes()
    with placed(bundle, data) as name:
        bundles._hashed.clear()  # of files of the same size and time
        if name != MANIFEST and (bundle / name).is_file():
            content = json.loads(original)
            content["files"][name]["sha256"] = bundles.file_sha256(bundle / name)
            manifest.write_text(json.dumps(content))
        try:
            use(bundle)
        finally:
            if name != MANIFEST:
                manifest.write_bytes(original)


def read_manifest(folder: Path, content: bytes) -> None:
    """Read a manifest alone, each part by itself, so that one that fails hides no other."""
    bundle = valid_bundle(folder)
    with placed(bundle, named(MANIFEST, content)):
        manifest = bundles.Manifest.read(bundle)
        for precision in manifest.precisions():
            manifest.saturates("image", precision)
            manifest.saturates("text", precision)


def towers(folder: Path) -> list[bytes]:
    bundle = valid_bundle(folder)
    return [(bundle / VISION).read_bytes()]


def run_tower(folder: Path, content: bytes) -> None:
    path = folder / "tower.onnx"
    path.write_bytes(content)
    pixels = np.ones((2, 3, SIZE, SIZE), np.float32)
    Tower(path, names=("pixel_values", "image_embeds"))(pixels)


def classifiers(folder: Path) -> list[bytes]:
    return [(valid_bundle(folder) / CLASSIFIER).read_bytes()]


def classify(folder: Path, content: bytes) -> None:
    path = folder / "classifier.onnx"
    path.write_bytes(content)
    EdgeClassifier.load(path).classify(PICTURE)


def changed_classifier(rng: random.Random, valid: bytes) -> bytes:
    """A classifier whose labels and settings are changed, or its graph."""
    if rng.random() < 0.5:
        return changed_onnx(rng, valid)
    import onnx

    model = onnx.load_from_string(valid)
    entry = model.metadata_props[0]
    entry.value = changed_json(rng, entry.value.encode()).decode("latin-1")
    return model.SerializeToString()


def tokenizers(folder: Path) -> list[bytes]:
    return [(valid_bundle(folder) / TOKENIZER).read_bytes()]


def tokenize(folder: Path, content: bytes) -> None:
    path = folder / TOKENIZER
    path.write_bytes(content)
    ClipTokenizer.from_file(path, CONTEXT)(["a cat", "é", ""])
    PlainTokenizer(path, CONTEXT, SETTINGS_OF_TEXTS).encode("a cat")


def plain_settings(folder: Path, content: bytes) -> None:
    try:
        settings = json.loads(content)
    except (ValueError, RecursionError):
        return  # the reader of manifests has refused it
    if isinstance(settings, dict):
        PlainTokenizer(valid_bundle(folder) / TOKENIZER, CONTEXT, settings).encode("a cat")


KINDS = {
    MANIFEST: changed_json,
    SETTINGS: changed_json,
    TOKENIZER: changed_json,
    VISION: changed_onnx,
    TEXT: changed_onnx,
    CLASSIFIER: changed_classifier,
}
READERS = (
    Reader("bundle", files(*KINDS), changed_file(KINDS), read_bundle,
           [named(name, text) for name in KINDS for text in HOSTILE_JSON], weight=0.5),
    Reader("manifest", lambda folder: [(valid_bundle(folder) / MANIFEST).read_bytes()],
           changed_json, read_manifest, HOSTILE_JSON, weight=0.5),
    Reader("tower", towers, changed_onnx, run_tower),
    Reader("classifier", classifiers, changed_classifier, classify),
    Reader("tokenizer.json of a bundle", tokenizers, changed_json, tokenize, HOSTILE_JSON),
    Reader("tokenizer.json of a bundle, bytes", tokenizers, changed_bytes, tokenize),
    Reader("tokenizer settings of a manifest", lambda _: [json.dumps(SETTINGS_OF_TEXTS).encode()],
           changed_json, plain_settings),
)  # fmt: skip
