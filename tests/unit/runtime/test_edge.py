from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.errors import BundleError, DataError
from tinyclip_edge.runtime import bundle_towers
from tinyclip_edge.runtime.index import ImageIndex
from tinyclip_edge.runtime.prompts import class_features
from tinyclip_edge.runtime.session import Tower


def colours(*values):
    return [Image.new("RGB", (12, 9), value) for value in values]


@pytest.fixture(scope="module")
def clip(shared_tiny_bundle):
    return EdgeCLIP.load(shared_tiny_bundle.folder)


def expected_text(bundle, text):
    """Recompute a text's embedding from the weights, letters spelt by hand."""
    vocabulary = json.loads((bundle.folder / "tokenizer.json").read_text())["model"]["vocab"]
    pieces = {"cat": ["cat</w>"], "red": ["re", "d</w>"], "a": ["a</w>"]}
    names = ["<|startoftext|>", *(p for word in text.split() for p in pieces[word])]
    return bundle.expected_text([vocabulary[name] for name in [*names, "<|endoftext|>"]])


def test_images_equal_the_recomputed_embedding(clip, shared_tiny_bundle):
    images = colours("red", "white", (10, 200, 30))
    features = clip.encode_image(images)
    assert features.dtype == np.float32 and features.shape == (3, 4)
    for image, row in zip(images, features, strict=True):
        colour = np.asarray(image, dtype=np.float64)[0, 0] / 255
        pixels = ((colour - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3])[:, None, None]
        np.testing.assert_allclose(row, shared_tiny_bundle.expected_image(pixels), atol=1e-5)


def test_texts_of_mixed_length_come_back_in_order_and_unpadded(clip, shared_tiny_bundle):
    texts = ["cat", "a red cat", "red", "cat", "a", "a cat"] * 30
    features = clip.encode_text(texts)
    assert features.dtype == np.float32
    for text, row in zip(texts, features, strict=True):
        np.testing.assert_allclose(row, expected_text(shared_tiny_bundle, text), atol=1e-5)


def test_towers_see_batches_of_at_most_32_and_one_length(clip, monkeypatch):
    shapes = []

    def record(batch):
        shapes.append(batch.shape)
        return np.tile(np.array([[1, 0, 0, 0]], dtype=np.float32), (len(batch), 1))

    monkeypatch.setattr(clip._parts, "_tower", lambda _: record)
    clip.encode_image(colours("red") * 70)
    assert [shape[0] for shape in shapes] == [32, 32, 6]
    shapes.clear()
    clip.encode_text(["cat", "a cat"] * 65)
    assert sorted(shapes) == [(1, 3), (1, 4), (64, 3), (64, 4)]


def test_empty_lists_give_empty_features(clip):
    assert clip.encode_image([]).shape == (0, 4)
    assert clip.encode_text([]).shape == (0, 4)


def test_a_single_text_or_image_is_refused(clip):
    with pytest.raises(DataError, match="list of texts"):
        clip.encode_text("cat")
    with pytest.raises(DataError, match="list of images"):
        clip.encode_image("cat.png")


def test_a_bad_image_is_counted_across_batches(clip):
    with pytest.raises(DataError, match="image 40"):
        clip.encode_image([*colours("red") * 40, b"junk"])


def test_classify_is_the_softmax_of_scaled_cosines(clip, shared_tiny_bundle):
    image = colours("red")[0]
    answer = clip.classify(image, ["cat", "red", "a"])
    row = clip.encode_image([image])[0]
    cosines = {t: float(row @ expected_text(shared_tiny_bundle, t)) for t in ("cat", "red", "a")}
    total = sum(math.exp(10 * value) for value in cosines.values())
    expected = sorted(
        ((t, math.exp(10 * c) / total) for t, c in cosines.items()), key=lambda x: -x[1]
    )
    assert [label for label, _ in answer] == [label for label, _ in expected]
    assert [p for _, p in answer] == pytest.approx([p for _, p in expected], abs=1e-5)


def test_templates_are_averaged_and_normalised(clip, shared_tiny_bundle):
    one, two = expected_text(shared_tiny_bundle, "cat"), expected_text(shared_tiny_bundle, "a cat")
    mean = (one + two) / np.linalg.norm(one + two)
    features = class_features(clip, ["cat"], ("{}", "a {}"))
    np.testing.assert_allclose(features[0], mean, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        ([], ("{}",), "list of labels is empty"),
        (["cat"], (), "list of templates is empty"),
        (["cat"], ("a photo",), "'a photo' has no {}"),
        ("cat", ("{}",), "must be lists"),
        (["cat"], "a {}", "must be lists"),
    ],
)
def test_wrong_labels_and_templates(clip, labels, templates, message):
    with pytest.raises(DataError, match=message):
        clip.classify(colours("red")[0], labels, templates)


def test_braces_in_labels_are_text(clip):
    assert clip.classify(colours("red")[0], ["{0}", "{x}"])[0][0] in ("{0}", "{x}")


def test_index_search_save_and_load(clip, tmp_path):
    paths = []
    for name in ("red", "green", "blue"):
        colours(name)[0].save(tmp_path / f"{name}.png")
        paths.append(tmp_path / f"{name}.png")
    loaded = ImageIndex.load(clip.index(paths).save(tmp_path / "index.npz"))
    query = clip.encode_text(["cat"])[0]
    scores = {str(p): float(clip.encode_image([p])[0] @ query) for p in paths}
    hits = clip.search("cat", loaded, k=2)
    assert [hit.key for hit in hits] == sorted(scores, key=scores.__getitem__, reverse=True)[:2]
    assert hits[0].score == pytest.approx(max(scores.values()), abs=1e-6)
    assert clip.index(colours("red", "blue")).keys == ("0", "1")


def test_an_index_of_another_precision_is_refused(clip, shared_tiny_bundle):
    other = EdgeCLIP.load(shared_tiny_bundle.folder, precision="fp32")
    with pytest.raises(BundleError, match=r"fp32.*int8"):
        clip.search("cat", other.index(colours("red")))


def test_facts(clip, shared_tiny_bundle):
    folder = shared_tiny_bundle.folder
    assert (clip.name, clip.logit_scale, clip.precision) == ("bundle", 10.0, "int8")
    assert (clip.spec.image_size, clip.spec.embedding_dim) == (8, 4)
    assert (clip.spec.encoder_parameters, clip.spec.runtime) == (12, "onnxruntime")
    files = [
        "onnx/vision_model_quantized.onnx",
        "onnx/text_model_quantized.onnx",
        "tokenizer.json",
        "preprocessor_config.json",
    ]
    assert clip.spec.bytes_on_disk == sum((folder / name).stat().st_size for name in files)


def test_only_the_tower_in_use_is_opened_and_checked(tiny_bundle):
    path = tiny_bundle.folder / "onnx/vision_model_quantized.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    clip = EdgeCLIP.load(tiny_bundle.folder)
    assert clip.encode_text(["cat"]).shape == (1, 4)
    with pytest.raises(BundleError, match=r"vision_model_quantized\.onnx has changed"):
        clip.encode_image(colours("red"))
    assert EdgeCLIP.load(tiny_bundle.folder, precision="fp32").encode_image(colours("red")).size


def test_verification_can_be_skipped(tiny_bundle):
    path = tiny_bundle.folder / "preprocessor_config.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(BundleError, match=r"preprocessor_config\.json has changed"):
        EdgeCLIP.load(tiny_bundle.folder).encode_image(colours("red"))
    clip = EdgeCLIP.load(tiny_bundle.folder, verify=False)
    assert clip.encode_image(colours("red")).shape == (1, 4)


def test_missing_files_and_precisions_are_reported_at_load(tiny_bundle):
    with pytest.raises(BundleError, match="'int9'; did you mean 'int8'"):
        EdgeCLIP.load(tiny_bundle.folder, precision="int9")
    (tiny_bundle.folder / "onnx/text_model_quantized.onnx").unlink()
    with pytest.raises(BundleError, match=r"text_model_quantized\.onnx is missing"):
        EdgeCLIP.load(tiny_bundle.folder)


def test_another_models_tokenizer_is_refused(tiny_bundle):
    path = tiny_bundle.folder / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "eot_token_id": 49407}))
    with pytest.raises(BundleError, match="belongs to another model"):
        EdgeCLIP.load(tiny_bundle.folder).encode_text(["cat"])


def test_a_manifest_of_another_width_is_refused(tiny_bundle):
    path = tiny_bundle.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "embedding_dim": 5}))
    clip = EdgeCLIP.load(tiny_bundle.folder)
    for call, argument in ((clip.encode_image, colours("red")), (clip.encode_text, ["cat"])):
        with pytest.raises(BundleError, match="have 4 dimensions, the manifest says 5"):
            call(argument)


@pytest.mark.parametrize(
    "text", ["", "   ", "\x00\x07\x1b[0m", "\u202e", "cat " * 10_000, "\ud800"]
)
def test_texts_of_any_length_and_kind(clip, text):
    features = clip.encode_text([text])
    assert features.shape == (1, 4) and np.isfinite(features).all()
    assert 2 <= len(clip.token_ids(text)) <= 16


def test_a_long_text_is_its_beginning(clip, shared_tiny_bundle):
    long = clip.encode_text(["cat " * 10_000])[0]
    np.testing.assert_allclose(long, expected_text(shared_tiny_bundle, "cat " * 14), atol=1e-5)


def test_search_in_a_compressed_index(clip):
    images = colours("red", "green", "blue", "white")
    index = clip.index(images)
    hits = clip.search("cat", index.compressed())
    assert {hit.key for hit in hits} == {"0", "1", "2", "3"}
    exact = {hit.key: hit.score for hit in clip.search("cat", index)}
    for hit in hits:
        assert hit.score == pytest.approx(exact[hit.key], abs=4**0.5 / 127)
    with pytest.raises(BundleError, match="made by model"):
        clip.search("cat", replace(index, model_hash="another").compressed())


@pytest.mark.parametrize(
    ("precision", "recipe", "precise"),
    [
        ("static", {"kind": "static", "reduce_range": False}, True),
        ("static", {"kind": "static", "reduce_range": True}, False),
        ("uint8", {"kind": "dynamic", "weights": "uint8", "reduce_range": True}, False),
        ("q4f16", {"kind": "weight only"}, False),
    ],
)
def test_bundles_of_other_precisions(tiny_bundle, monkeypatch, precision, recipe, precise):
    path = tiny_bundle.folder / "manifest.json"
    content = json.loads(path.read_text())
    for towers in content["towers"].values():
        towers[precision] = towers["int8"]
    content["recipe"][precision] = recipe
    path.write_text(json.dumps(content))
    opened = []

    def record(*arguments, precise_int8, **options):
        opened.append(precise_int8)
        return Tower(*arguments, precise_int8=precise_int8, **options)

    monkeypatch.setattr(bundle_towers, "Tower", record)
    clip = EdgeCLIP.load(tiny_bundle.folder, precision=precision)
    assert clip.encode_text(["cat"]).shape == clip.encode_image(colours("red")).shape == (1, 4)
    assert opened == [precise, precise]
    assert clip.model_hash.endswith(f"-{precision}")


def test_the_log_names_the_precisions(shared_tiny_bundle, caplog):
    with caplog.at_level("INFO", logger="tinyclip_edge"):
        EdgeCLIP.load(shared_tiny_bundle.folder, precision="fp32")
    assert f"bundle {shared_tiny_bundle.folder}: precision fp32 of fp32, int8" in caplog.messages
