from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tinyclip_edge.errors import DataError
from tinyclip_edge.models import TorchEmbedder, load_clip


def pictures(n, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 255, (36, 48, 3), dtype=np.uint8)) for _ in range(n)]


def test_features_are_unit_rows_whatever_the_batch(toy_teacher):
    images = pictures(7)
    batch = TorchEmbedder(toy_teacher).encode_image(images)
    parts = TorchEmbedder(toy_teacher, batch_size=3).encode_image(images)
    assert batch.shape == (7, 64)
    assert batch.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(batch, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(parts, batch, atol=1e-6)
    assert TorchEmbedder(toy_teacher).encode_image([]).shape == (0, 64)
    assert TorchEmbedder(toy_teacher).encode_text([]).shape == (0, 64)


def test_features_are_those_of_the_network(toy_teacher):
    images, texts = pictures(2), ["a cat", "red square of the dog"]
    with torch.no_grad():
        pixels = torch.stack([toy_teacher.preprocess(i) for i in images])
        image = toy_teacher.model.encode_image(pixels).numpy()
        text = toy_teacher.model.encode_text(toy_teacher.tokenizer(texts)).numpy()
    ours = TorchEmbedder(toy_teacher)
    for features, raw in ((ours.encode_image(images), image), (ours.encode_text(texts), text)):
        np.testing.assert_allclose(features, raw / np.linalg.norm(raw, axis=1)[:, None], atol=1e-6)


def test_every_image_form_gives_the_same(toy_teacher, tmp_path):
    image = pictures(1)[0]
    path = tmp_path / "a.png"
    image.save(path)
    forms = [image, path, str(path), path.read_bytes(), np.asarray(image)]
    features = TorchEmbedder(toy_teacher).encode_image(forms)
    assert np.abs(features - features[0]).max() < 1e-6


def test_bad_images_are_data_errors(toy_teacher, tmp_path):
    embedder = TorchEmbedder(toy_teacher)
    buffer = io.BytesIO()
    pictures(1)[0].save(buffer, "PNG")
    for bad in (b"", b"no image", buffer.getvalue()[:60], tmp_path / "missing.png"):
        with pytest.raises(DataError):
            embedder.encode_image([bad])
    with pytest.raises(DataError, match="list of texts"):
        embedder.encode_text("a cat")


def test_training_mode_is_restored(toy_teacher):
    toy_teacher.model.train()
    embedder = TorchEmbedder(toy_teacher)
    embedder.encode_text(["a cat"])
    assert toy_teacher.model.training
    with pytest.raises(DataError):
        embedder.encode_image([b"no image"])
    assert toy_teacher.model.training


def test_spec(toy_teacher, toy_teacher_folder):
    clip = load_clip(str(toy_teacher_folder))
    spec = TorchEmbedder(clip).spec
    file = toy_teacher_folder / "open_clip_model.safetensors"
    # A float32 file is the weights and a header of some kilobytes.
    assert 0 < file.stat().st_size - spec.bytes_on_disk < 20_000
    assert TorchEmbedder(toy_teacher).spec.bytes_on_disk == spec.bytes_on_disk
    assert (spec.image_size, spec.embedding_dim) == (32, 64)
    assert (spec.runtime, spec.precision) == ("torch", "fp32")
    # 4 and 3 blocks of 12 w² + 13 w; patches, class, positions, norms, projections.
    vision = 3 * 64 * 128 + 128 + 17 * 128 + 4 * 128 + 128 * 64 + 4 * (12 * 128**2 + 13 * 128)
    text = 16 * 128 + 2 * 128 + 128 * 64 + 3 * (12 * 128**2 + 13 * 128)
    assert spec.encoder_parameters == vision + text
    vocabulary = clip.config["model_cfg"]["text_cfg"]["vocab_size"]
    assert spec.token_parameters == vocabulary * 128


def test_logit_scale_follows_the_model(toy_teacher):
    embedder = TorchEmbedder(toy_teacher)
    assert embedder.logit_scale == pytest.approx(1 / 0.07, rel=1e-6)
    toy_teacher.model.logit_scale.data.fill_(np.log(50.0))
    assert embedder.logit_scale == pytest.approx(50.0, rel=1e-6)
    assert embedder.name == "toy-teacher"
