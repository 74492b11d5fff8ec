"""Layouts of other applications, read with the inputs that those applications make."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image
from tokenizers import Tokenizer

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.api import check
from tinyclip_edge.cli.export_options import ContentOptions
from tinyclip_edge.errors import ConfigError
from tinyclip_export import export_bundle
from tinyclip_export.bundle.layouts import write_layouts
from tinyclip_export.layout import InputForm
from tinyclip_export.settings import ExportSettings, Extras
from tinyclip_export.verification.embeddings import TowerFiles
from tinyclip_export.verification.failures import ValuesError

TEXTS = ["a photo of the cat", "Red  BICYCLE", "blue " * 40, ""]


def files(folder, precision="int8", form=None):
    suffix = {"int8": "_quantized", "fp32": ""}[precision]
    image, text = (folder / f"onnx/{stem}{suffix}.onnx" for stem in ("vision_model", "text_model"))
    return TowerFiles(precision, image, text, **({} if form is None else {"form": form}))


@pytest.fixture(scope="module")
def bundle(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts") / "toy"
    shutil.copytree(exported.folder, folder)
    return folder


@pytest.fixture(scope="module")
def end(bundle):
    return json.loads((bundle / "manifest.json").read_text())["eot_token_id"]


@pytest.fixture(scope="module")
def immich(bundle, exported, end):
    entry = write_layouts(exported.clip, bundle, files(bundle), ["immich"], end=end)["immich"]
    assert entry["folder"] == "layouts/immich" and entry["precision"] == "int8"
    assert min(entry["cosine_min"].values()) > 0.99999
    return bundle / entry["folder"]


def session(path):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_immich_encodes_pictures(immich, bundle):
    """The steps of immich's visual encoder: shorter side, centre, mean and std, NCHW."""
    settings = json.loads((immich / "visual/preprocess_cfg.json").read_text())
    assert settings["interpolation"] == "bicubic" and settings["resize_mode"] == "shortest"
    side, clip = settings["size"], EdgeCLIP.load(bundle)
    image = Image.fromarray(
        np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    )  # square: no rounding of the crop between the two
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255
    pixels = (pixels - np.float32(settings["mean"])) / np.float32(settings["std"])
    model = session(immich / "visual/model.onnx")
    (given,) = model.get_inputs()
    assert (given.name, given.type, given.shape) == ("image", "tensor(float)", [1, 3, side, side])
    (features,) = model.run(None, {"image": pixels.transpose(2, 0, 1)[None]})[0]
    ours = clip.encode_image([image])[0]
    assert features @ ours / np.linalg.norm(features) == pytest.approx(1, abs=1e-5)


def test_immich_encodes_texts(immich, bundle):
    """The steps of its textual encoder: tokenizer.json, padded and cut to the context, int32."""
    length = json.loads((immich / "config.json").read_text())["text_cfg"]["context_length"]
    pad = json.loads((immich / "textual/tokenizer_config.json").read_text())["pad_token"]
    tokenizer = Tokenizer.from_file(str(immich / "textual/tokenizer.json"))
    tokenizer.enable_padding(length=length, pad_token=pad, pad_id=tokenizer.token_to_id(pad))
    tokenizer.enable_truncation(max_length=length)
    model, clip = session(immich / "textual/model.onnx"), EdgeCLIP.load(bundle)
    (given,) = model.get_inputs()
    assert (given.name, given.type, given.shape) == ("text", "tensor(int32)", [1, length])
    for text in TEXTS:
        ids = np.array([tokenizer.encode(text).ids], np.int32)
        (features,) = model.run(None, {"text": ids})[0]
        ours = clip.encode_text([text])[0]
        # Padding is cut off, so that int8 answers exactly as the bundle does.
        assert features @ ours / np.linalg.norm(features) == pytest.approx(1, abs=1e-6), text


def test_a_layout_that_answers_otherwise_is_refused(bundle, exported, tmp_path):
    folder = tmp_path / "toy"
    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("layouts"))
    # Another end of text: the graph cuts at the wrong place.
    with pytest.raises(ValuesError, match=r"layout immich: text cosine .* is below"):
        write_layouts(exported.clip, folder, files(folder), ["immich"], end=0)


def test_a_fixed_batch_of_several_is_refused(bundle, exported, end):
    with pytest.raises(ConfigError, match="immich encodes one input at a time"):
        write_layouts(
            exported.clip, bundle, files(bundle, form=InputForm(batch=4)), ["immich"], end=end
        )


def test_a_tokenizer_without_padding_is_refused(bundle, exported, end, tmp_path):
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"layout immich: .* pad_token, but"):
        write_layouts(exported.clip, folder, files(bundle), ["immich"], end=end)
    assert not (folder / "layouts").exists()


def test_an_unknown_layout_is_refused():
    with pytest.raises(ConfigError, match=r"no layout 'imich'.*immich"):
        ContentOptions(layout=["imich"]).read()
    assert ContentOptions(layout=["immich", "immich"]).read().layouts == ("immich",)


def test_graphs_are_valid(immich):
    for part in ("visual", "textual"):
        onnx.checker.check_model(onnx.load(str(immich / part / "model.onnx")))


@pytest.mark.slow
def test_an_export_lists_the_layout(exported, tmp_path):
    settings = ExportSettings(extras=Extras(layouts=("immich",)))
    out = tmp_path / "out"
    export_bundle(exported.clip, out, pairs=exported.pairs, max_drop=100.0, settings=settings)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["extras"]["layouts"]["immich"]["precision"] == "int8"
    assert {f"layouts/immich/{part}/model.onnx" for part in ("visual", "textual")} < set(
        manifest["files"]
    )
    assert check(out, precision="int8").passed
