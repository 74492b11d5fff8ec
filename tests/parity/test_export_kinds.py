"""ONNX towers of every kind that open_clip builds, against its own encoders.

Both compute in float32, in another order: unit-norm embeddings may differ by 1e-5 at most.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tinyclip_edge.models.build import build_model
from tinyclip_export.layout import InputForm
from tinyclip_export.onnx_passes import exporter
from tinyclip_export.towers.factory import image_tower, text_tower
from tinyclip_export.towers.fixed_length_text import FixedLengthTextTower
from tinyclip_export.towers.resnet import fold_batch_norm
from tinyclip_export.towers.vit import TextTower

TOLERANCE = 1e-5
COSINE = 0.999999
CONTEXT, EOT = 12, 299


def timm(name, size, pool, proj):
    return {
        "image_size": size,
        "timm_model_name": name,
        "timm_pool": pool,
        "timm_proj": proj,
    }


# As open_clip's own configs put them together: ResNet, ViT, SigLIP, MobileCLIP, ConvNeXt, ResNet.
VISION = {
    "ModifiedResNet": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None},
    "timm ViT": timm("test_vit", 160, "token", None),
    "timm ViT, attention pool": timm("test_vit4", 160, "map", "none"),
    "timm FastViT": timm("fastvit_t8", 128, "avg", None),
    "timm ConvNeXt": timm("test_convnext2", 160, "", "linear"),
    "timm ResNet, mlp head": timm("test_resnet", 160, "", "mlp"),
}
SMALL_VIT = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 32}
PADDED = {
    "SigLIP": {"pool_type": "last", "no_causal_mask": True, "proj_bias": True},
    "MobileCLIP": {"pool_type": "argmax", "no_causal_mask": True},
    "first token": {"pool_type": "first", "no_causal_mask": True},
    "end by id": {"pool_type": "eos", "eos_id": EOT, "no_causal_mask": True},
    "causal, last token": {"pool_type": "last"},
    "causal, first token": {"pool_type": "first"},
}


def build(vision=SMALL_VIT, **text_cfg):
    """Random weights; norms, biases and statistics are moved off their trivial start."""
    text = {"context_length": CONTEXT, "vocab_size": 300, "width": 48, "heads": 3, "layers": 2}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": {**text, **text_cfg}}
    torch.manual_seed(0)
    model = build_model({**config, "custom_text": True}, "toy")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand_like(buffer))
    return model


def token_ids(*lengths, pad=0):
    ids = torch.full((len(lengths), CONTEXT), pad)
    for row, length in zip(ids, lengths, strict=True):
        row[1 : length - 1] = torch.randint(2, EOT - 1, (length - 2,))
        row[0], row[length - 1] = EOT - 1, EOT
    return ids


def compare(actual, expected):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < TOLERANCE
    assert (actual * expected).sum(axis=1).min() > COSINE


SLOW = ("timm ViT, attention pool", "timm FastViT", "timm ConvNeXt")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in VISION],
)
def test_image_tower_in_onnxruntime_gives_open_clips_features(kind, tmp_path):
    config, path = VISION[kind], tmp_path / "image.onnx"
    model, size = build(config), config["image_size"]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    exporter.export_image_tower(image_tower(model), path, image_size=size)
    session = onnxruntime.InferenceSession(path)
    for batch in (1, 3):
        pixels = torch.randn(batch, 3, size, size)
        with torch.inference_mode():
            expected = model.encode_image(pixels, normalize=True).numpy()
        compare(session.run(["image_embeds"], {"pixel_values": pixels.numpy()})[0], expected)
    after = model.state_dict()  # exporting leaves the model as it was
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_convolutions_of_a_resnet_stand_without_batch_norm(tmp_path):
    path = tmp_path / "image.onnx"
    exporter.export_image_tower(image_tower(build(VISION["ModifiedResNet"])), path, image_size=64)
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    # Three of the stem, three a block in five blocks, one around the first block of four stages;
    # means of neighbours: one of the stem, two in the first block of the three stages that halve.
    assert nodes.count("Conv") == 3 + 3 * 5 + 4 + 1 + 2 * 3
    assert "AveragePool" not in nodes
    assert nodes.count("Relu") == 3 + 3 * 5
    assert "BatchNormalization" not in nodes


def test_folding_by_hand():
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0).eval()
    with torch.no_grad():
        conv.weight.fill_(3.0)
        norm.weight.fill_(2.0)
        norm.bias.fill_(5.0)
        norm.running_mean.fill_(1.0)
        norm.running_var.fill_(16.0)
    both = fold_batch_norm(conv, norm)
    # (3 x - 1) / 4 * 2 + 5 = 1.5 x + 4.5
    assert (both.weight.item(), both.bias.item()) == (1.5, 4.5)


@pytest.mark.parametrize("kind", PADDED)
def test_padded_text_tower_gives_open_clips_features(kind):
    model, ids = build(**PADDED[kind]), token_ids(3, 7, CONTEXT)
    tower = text_tower(model)
    assert isinstance(tower, FixedLengthTextTower)
    with torch.inference_mode():
        compare(tower(ids).numpy(), model.encode_text(ids, normalize=True).numpy())


@pytest.mark.parametrize("kind", ["SigLIP", "MobileCLIP"])
def test_padded_text_tower_in_onnxruntime(kind, tmp_path):
    model, path = build(**PADDED[kind]), tmp_path / "text.onnx"
    exporter.export_text_tower(text_tower(model), path)
    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == ["batch", CONTEXT]
    for lengths in ((4,), (3, 7, CONTEXT)):
        ids = token_ids(*lengths, pad=1)
        with torch.inference_mode():
            expected = model.encode_text(ids, normalize=True).numpy()
        compare(session.run(["text_embeds"], {"input_ids": ids.numpy()})[0], expected)


def test_static_batch(tmp_path):
    model = build()
    form = InputForm(batch=2, padded=True)
    image, text = tmp_path / "image.onnx", tmp_path / "text.onnx"
    exporter.export_image_tower(image_tower(model), image, image_size=32, form=form)
    exporter.export_text_tower(text_tower(model), text, form=form)
    pixels, ids = torch.randn(2, 3, 32, 32), token_ids(5, 8)
    assert isinstance(text_tower(model), TextTower)
    for path, value, encode in (
        (image, pixels, model.encode_image),
        (text, ids, model.encode_text),
    ):
        session = onnxruntime.InferenceSession(path)
        (tower_input,) = session.get_inputs()
        assert tower_input.shape == list(value.shape)
        assert session.get_outputs()[0].shape == [2, 32]
        nodes = {node.op_type for node in onnx.load(path).graph.node}
        assert "Shape" not in nodes
        with torch.inference_mode():
            expected = encode(value, normalize=True).numpy()
        compare(session.run(None, {tower_input.name: value.numpy()})[0], expected)
