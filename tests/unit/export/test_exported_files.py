"""The ONNX files as other programs see them: axes, values, nothing of this machine inside."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

FILES = ("vision_model", "text_model", "vision_model_quantized", "text_model_quantized")


def session(exported, name):
    # plain defaults: what somebody without this project would write
    return ort.InferenceSession(exported.folder / "onnx" / f"{name}.onnx")


def ids_of(exported, count=3):
    return exported.clip.tokenizer(exported.pairs[1][:count])


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_image_tower_follows_pytorch_at_any_batch(exported, batch):
    pixels = torch.randn(batch, 3, 32, 32)
    with torch.no_grad():
        expected = exported.clip.model.encode_image(pixels, normalize=True).numpy()
    actual = session(exported, "vision_model").run(
        ["image_embeds"], {"pixel_values": pixels.numpy()}
    )[0]
    assert actual.dtype == np.float32
    assert np.abs(actual - expected).max() < 1e-5


def test_short_text_equals_padded_text_in_fp32(exported):
    ids = ids_of(exported)
    with torch.no_grad():
        expected = exported.clip.model.encode_text(ids, normalize=True).numpy()
    tower = session(exported, "text_model")
    padded = tower.run(["text_embeds"], {"input_ids": ids.numpy()})[0]
    assert np.abs(padded - expected).max() < 1e-5
    for row, features in zip(ids, expected, strict=True):
        short = row[: int(row.argmax()) + 1][None].numpy()
        assert short.shape[1] < 16
        assert np.abs(tower.run(None, {"input_ids": short})[0][0] - features).max() < 1e-5


@pytest.mark.parametrize("length", [2, 5, 16])
def test_text_tower_takes_any_length(exported, length):
    ids = np.ones((2, length), dtype=np.int64)
    for name in ("text_model", "text_model_quantized"):
        features = session(exported, name).run(None, {"input_ids": ids})[0]
        assert features.shape == (2, 64)
        assert np.linalg.norm(features, axis=1) == pytest.approx([1, 1], abs=1e-4)


@pytest.mark.parametrize("name", FILES)
def test_file_says_nothing_about_the_machine(exported, name):
    path = exported.folder / "onnx" / f"{name}.onnx"
    model = onnx.load(path)
    assert not model.metadata_props
    assert not model.graph.metadata_props
    assert all(not n.metadata_props and not n.doc_string for n in model.graph.node)
    content = path.read_bytes()
    assert b".py" not in content
    assert b"site-packages" not in content
    assert b"stack_trace" not in content


@pytest.mark.parametrize("name", FILES)
def test_file_stands_alone(exported, name):
    model = onnx.load(exported.folder / "onnx" / f"{name}.onnx", load_external_data=False)
    assert all(not t.external_data for t in model.graph.initializer)
    assert {o.domain for o in model.opset_import} <= {"", "ai.onnx", "com.microsoft"}
    assert next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) >= 18
    onnx.checker.check_model(model)


def test_nothing_but_the_layout_is_in_the_folder(exported):
    files = {
        p.relative_to(exported.folder).as_posix() for p in exported.folder.rglob("*") if p.is_file()
    }
    assert files == {
        "README.md",
        "config.json",
        "manifest.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        *(f"onnx/{name}.onnx" for name in (*FILES, "model", "model_quantized")),
    }


def test_hugging_face_reads_the_configs(exported):
    from transformers import CLIPConfig

    from hugging_face import PillowProcessor

    config = CLIPConfig.from_pretrained(exported.folder)
    text, vision = config.text_config, config.vision_config
    assert (text.num_hidden_layers, text.hidden_size, text.intermediate_size) == (3, 128, 512)
    assert (vision.num_hidden_layers, vision.patch_size, vision.image_size) == (4, 8, 32)
    assert (text.num_attention_heads, vision.num_attention_heads) == (2, 2)
    assert config.projection_dim == text.projection_dim == vision.projection_dim == 64
    assert text.eos_token_id == text.vocab_size - 1
    processor = PillowProcessor.from_pretrained(exported.folder)
    image = exported.pairs[0][0]
    pixels = processor(image, return_tensors="np")["pixel_values"][0]
    assert np.abs(pixels - exported.clip.preprocess(image).numpy()).max() < 1e-5


def test_manifest_tells_what_was_done(exported):
    manifest = json.loads((exported.folder / "manifest.json").read_text())
    assert manifest["default_precision"] == "int8"
    assert manifest["recipe"]["int8"]["reduce_range"] is True
    assert manifest["recipe"]["int8"]["kind"] == "dynamic"
    assert manifest["verification"]["pairs"] == 12
    assert manifest["verification"]["precisions"]["fp32"]["image"]["cosine_min"] > 0.9999
    gates = manifest["verification"]["precisions"]["int8"]["checks"]
    # At toy size int8 may be slower, which is said and no gate.
    assert all(passed for name, passed in gates.items() if "latency" not in name)
    from tinyclip_edge.models import count_parameters

    count = count_parameters(exported.clip.model)
    assert manifest["parameters"]["token_embedding"] == count.token_embedding


def test_a_tower_that_is_traced_for_batches_but_one_is_exported(tmp_path):
    """torch 2.9 refuses it where the batch is a dimension without bounds."""
    from torch import nn

    from tinyclip_export.onnx_passes.exporter import export_image_tower

    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(12, 4)

        def forward(self, pixels):
            features = self.head(pixels.flatten(1))
            return features * 1.0 if pixels.shape[0] != 1 else features

    tower, path = Tower(), tmp_path / "tower.onnx"
    export_image_tower(tower, path, image_size=2)
    session = ort.InferenceSession(path)
    assert session.get_outputs()[0].shape == ["batch", 4]
    for batch in (1, 3):
        pixels = torch.randn(batch, 3, 2, 2)
        (actual,) = session.run(None, {"pixel_values": pixels.numpy()})
        assert np.abs(actual - tower(pixels).detach().numpy()).max() < 1e-6
