"""Towers in operators that all engines have: the same embeddings, without what engines lack."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import load_clip
from tinyclip_export.layout import InputForm
from tinyclip_export.onnx_passes import exporter
from tinyclip_export.towers.causal_mask import SpecialIds
from tinyclip_export.towers.factory import image_tower, text_tower
from tinyclip_export.towers.vit import _end_marks
from tinyclip_export.verification.engine_rules import RULES
from tinyclip_export.verification.structure import structure_faults

FORM = InputForm(batch=1, padded=True, ids="int32", plain=True)
TEXTS = ["a photo of the red dog", "cat", "The BLUE square, and a circle!"]


@pytest.fixture(scope="module")
def towers(toy_teacher_folder, tmp_path_factory):
    """A model and the files of its plain towers."""
    clip = load_clip(str(toy_teacher_folder))
    folder = tmp_path_factory.mktemp("plain")
    text = text_tower(clip.model, clip.tokenizer(["a"])[0], plain=True)
    image = image_tower(clip.model, plain=True)
    exporter.export_text_tower(text, folder / "text.onnx", form=FORM)
    exporter.export_image_tower(image, folder / "image.onnx", image_size=clip.image_size, form=FORM)
    return clip, folder


def test_texts_of_int32_ids_have_open_clips_embeddings(towers):
    clip, folder = towers
    session = ort.InferenceSession(folder / "text.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(int32)"
    ids = clip.tokenizer(TEXTS)
    with torch.inference_mode():
        expected = clip.model.encode_text(ids, normalize=True).numpy()
    rows = [session.run(None, {"input_ids": row[None].numpy().astype(np.int32)})[0] for row in ids]
    assert np.abs(np.concatenate(rows) - expected).max() < 1e-5


def test_images_have_open_clips_embeddings(towers):
    clip, folder = towers
    session = ort.InferenceSession(folder / "image.onnx", providers=["CPUExecutionProvider"])
    pixels = torch.rand(1, 3, clip.image_size, clip.image_size, generator=torch.manual_seed(0))
    with torch.inference_mode():
        expected = clip.model.encode_image(pixels, normalize=True).numpy()
    found = session.run(None, {"pixel_values": pixels.numpy()})[0]
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("target", ["qnn", "coreml", "tensorrt"])
def test_every_engine_takes_them(towers, tower, target):
    model = onnx.load(str(towers[1] / f"{tower}.onnx"))
    assert list(structure_faults(model, RULES[target])) == []


def test_the_ordinary_towers_are_what_coreml_lacks(towers, tmp_path):
    clip = towers[0]
    text = text_tower(clip.model, clip.tokenizer(["a"])[0])
    exporter.export_text_tower(text, tmp_path / "text.onnx", form=InputForm(1, padded=True))
    faults = list(structure_faults(onnx.load(str(tmp_path / "text.onnx")), RULES["coreml"]))
    assert "operator GatherElements (1) is not supported" in faults
    assert "operator ReduceL2 (1) is not supported" in faults
    assert "input_ids is INT64, which the engine does not support" in faults


def test_an_end_that_also_pads_is_refused():
    with pytest.raises(ModelError, match="token is also the padding"):
        _end_marks(torch.nn.Embedding(9, 4), SpecialIds(start=7, end=8, pad=8))
