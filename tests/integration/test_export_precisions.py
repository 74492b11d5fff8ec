"""Every precision of a ViT and of a ResNet: written, verified, reopened, said in the manifest."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from PIL import Image

from tinyclip_edge.models import save_local_dir
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.replay import replay

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("towers_exported_once")]

ALL = ("int8", "uint8", "static", "fp16", "w8", "q4", "q4f16", "bnb4")
# Cosine to PyTorch that random weights keep; 4-bit ones lose most.
LEAST = {"fp16": 0.9999, "q4": 0.9, "q4f16": 0.9, "bnb4": 0.9}


def saved_model(name, vision, tokenizer_file, folder):
    """Save a CLIP of random weights with a small text tower."""
    from tokenizers import Tokenizer

    from tinyclip_edge.models.assemble import assemble

    vocabulary = Tokenizer.from_file(str(tokenizer_file)).get_vocab_size()
    config = {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 64, **vision},
        "text_cfg": {"context_length": 16, "vocab_size": vocabulary, "width": 64, "layers": 1},
    }
    torch.manual_seed(0)
    clip = assemble(config, None, name=name, tokenizer_file=tokenizer_file)
    with torch.no_grad():
        for key, parameter in clip.model.named_parameters():
            if key.endswith("token_embedding.weight"):
                parameter.mul_(20)
    save_local_dir(folder / name, clip)
    return folder / name


@pytest.fixture(scope="module")
def resnet_folder(toy_tokenizer_file, tmp_path_factory):
    vision = {"layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
    return saved_model("resnet", vision, toy_tokenizer_file, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def efficientnet_folder(toy_tokenizer_file, tmp_path_factory):
    vision = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": None}
    folder = tmp_path_factory.mktemp("models")
    return saved_model("efficientnet", vision, toy_tokenizer_file, folder)


@pytest.fixture
def export(command_line, tmp_path):
    def run(model, *options, drop=100, name="bundle"):
        out = tmp_path / name
        words = ("--out", out, "--limit", 12, "--max-drop", drop, "--json", *options)
        code, stdout, stderr = command_line("export", model, *words)
        assert code == 0, stderr
        return out, json.loads(stdout), stderr

    return run


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def kinds(path):
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_every_precision_is_verified_and_opens_in_a_fresh_process(
    kind, toy_teacher_folder, resnet_folder, export
):
    model = toy_teacher_folder if kind == "vit" else resnet_folder
    options = [word for name in ALL for word in ("--precision", name)]
    out, report, _ = export(model, *options)
    assert report["precisions"] == ["fp32", *ALL]
    manifest = manifest_of(out)
    assert set(manifest["recipe"]) == {"fp32", *ALL}
    for name, measured in report["verification"]["precisions"].items():
        checks = measured["checks"]
        slower = {check for check, passed in checks.items() if not passed}
        assert slower <= {"image latency", "text latency"}  # no gate unless asked for
        assert checks["reload"] is True  # a child process answered
        for tower in ("image", "text"):
            assert measured[tower]["cosine_p1"] > LEAST.get(name, 0.99)
            if name != "fp32":
                times = measured[tower]["fp32_ms"] / measured[tower]["ms"]
                assert measured[tower]["times_faster"] == pytest.approx(times, abs=0.01)
        assert not replay(out, name).failures
    by_name = manifest["recipe"]
    assert by_name["static"]["kind"] == "static"
    assert by_name["q4"]["weights"] == "4 bit"
    assert manifest["verification"]["calibration"]["apart"] is True
    images = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    expected = EdgeCLIP.load(out, precision="fp32").encode_image([Image.fromarray(images)])
    for name in ALL:
        measured = EdgeCLIP.load(out, precision=name).encode_image([Image.fromarray(images)])
        assert (measured * expected).sum() > LEAST.get(name, 0.99)


def test_the_images_of_a_resnet_are_static_int8_in_integer_convolutions(
    resnet_folder, export, tmp_path
):
    out, _, _ = export(resnet_folder, "--int8")
    recipe = manifest_of(out)["recipe"]["int8"]
    assert (recipe["kind"], recipe["image"]["kind"]) == ("dynamic", "static")
    image = out / "onnx" / "vision_model_quantized.onnx"
    assert "ConvInteger" not in kinds(image)
    convolutions = kinds(out / "onnx" / "vision_model.onnx").count("Conv")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(image, options)
    operators = kinds(tmp_path / "optimized.onnx")
    # three of the stem, three a block, one around each of the four blocks; means of neighbours:
    # one in the stem, two in each of the three blocks that halve the picture
    assert (convolutions, operators.count("QLinearConv"), operators.count("Conv")) == (26, 26, 0)
    # a block's sum is rectified in integers too: nothing leaves them between the convolutions
    assert (operators.count("QLinearAdd"), operators.count("Relu")) == (4, 0)
    assert operators.count("AveragePool") == 0


def test_a_float_tower_of_convolutions_is_said(efficientnet_folder, export, monkeypatch):
    from tinyclip_export import float_choice

    monkeypatch.setattr(float_choice, "why_float", lambda *_: "int8 image is slower than fp32")
    out, report, _ = export(efficientnet_folder, "--int8", "--no-search")
    said = "the int8 file of the image tower is float, a copy of fp32: int8 image is slower"
    assert report["warnings"][0].startswith(said)
    recipe = manifest_of(out)["recipe"]["int8"]
    assert recipe["image"] == {"kind": "float", "reason": "int8 image is slower than fp32"}
    files = [out / "onnx" / f"vision_model{end}.onnx" for end in ("", "_quantized")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert report["verification"]["precisions"]["int8"]["image"]["times_faster"] == 1.0
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    rows = [EdgeCLIP.load(out, precision=name).encode_image([picture]) for name in ("fp32", "int8")]
    np.testing.assert_array_equal(*rows)
    assert not replay(out, "int8").failures


def test_products_stay_integer_where_the_batch_is_fixed(toy_teacher_folder, export, tmp_path):
    out, report, _ = export(toy_teacher_folder, "--static", "--static-batch", 2, "--no-search")
    assert report["verification"]["batch"] == 2
    for stem, layers in (("vision_model", 6 * 4 + 2), ("text_model", 6 * 3 + 1)):
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        ort.InferenceSession(out / "onnx" / f"{stem}_static.onnx", options)
        operators = kinds(tmp_path / "optimized.onnx")
        assert (operators.count("MatMulIntegerToFloat"), operators.count("Gemm")) == (layers, 0)


def test_a_target_gives_precisions_and_settings(toy_teacher_folder, export):
    out, report, _ = export(toy_teacher_folder, "--target", "browser", "--fp16")
    assert report["precisions"] == ["int8", "fp16"]
    names = {path.name for path in (out / "onnx").iterdir()}
    stems = ("model", "vision_model", "text_model")
    assert names == {f"{stem}{end}.onnx" for stem in stems for end in ("_quantized", "_fp16")}
    manifest = manifest_of(out)
    assert manifest["default_precision"] == "int8"
    assert manifest["recipe"]["int8"]["weight_range"] == "overflow_safe"
    # fp32 was there to be timed against, and is gone
    assert set(manifest["verification"]["precisions"]) == {"int8", "fp16"}
    out, _, _ = export(toy_teacher_folder, "--target", "x86-vnni", "--token-bits", 4, name="vnni")
    recipe = manifest_of(out)["recipe"]["int8"]
    assert (recipe["weight_range"], recipe["token_table"]) == ("8 bit", "4 bit")
    assert "GatherBlockQuantized" in kinds(out / "onnx" / "text_model_quantized.onnx")


def test_a_target_serves_a_resnet_whose_towers_take_other_opsets(resnet_folder, export):
    out, _, _ = export(resnet_folder, "--target", "x86-vnni")
    folder = out / "onnx"
    opsets = {
        name: {entry.domain: entry.version for entry in onnx.load(path).opset_import}[""]
        for name in ("vision_model", "text_model", "model")
        for path in [folder / f"{name}_quantized.onnx"]
    }
    assert opsets["text_model"] == opsets["model"] == 23 > opsets["vision_model"]
    assert "Attention" in kinds(folder / "model_quantized.onnx")
    image = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
    ids = np.array([[1, 5, 9], [1, 7, 9]], np.int64)
    pipeline = ort.InferenceSession(folder / "model_quantized.onnx")
    outputs = pipeline.run(
        ["image_embeds", "text_embeds"], {"pixel_values": image, "input_ids": ids}
    )
    feeds = {"vision_model": {"pixel_values": image}, "text_model": {"input_ids": ids}}
    for (name, feed), together in zip(feeds.items(), outputs, strict=True):
        apart = ort.InferenceSession(folder / f"{name}_quantized.onnx")
        np.testing.assert_allclose(together, apart.run(None, feed)[0], atol=1e-6)


def test_a_search_ranks_layers_and_is_never_worse_than_plain(toy_teacher_folder, export):
    out, report, err = export(toy_teacher_folder, "--int8", "--search", "--limit", 40, drop=0.5)
    sensitivity = report["verification"]["sensitivity"]
    assert sensitivity["precision"] == "int8"
    # six layers a block of 4 and 3, both projections, the patches
    assert len(sensitivity["layers"]) == 6 * 4 + 1 + 6 * 3 + 1 + 1
    assert {row["tower"] for row in sensitivity["layers"]} == {"image", "text"}
    assert "body.0.up" in {row["node"] for row in sensitivity["layers"]}
    pareto = sensitivity["pareto"]
    plain, (selected,) = pareto[0], [row for row in pareto if row["chosen"]]
    assert plain["kept_float"] == 0
    assert (selected["overlap"], -selected["kl"]) >= (plain["overlap"], -plain["kl"])
    counts = [row["kept_float"] for row in pareto]
    assert counts == sorted(counts)
    assert pareto[-1]["bytes"] > plain["bytes"]
    assert pareto[-1]["kl"] < plain["kl"]
    manifest = manifest_of(out)
    assert "sensitivity.png" in manifest["files"]
    assert (out / "sensitivity.png").read_bytes()[:4] == b"\x89PNG"
    recipe = manifest["recipe"]["int8"]
    graph = kinds(out / "onnx" / "text_model_quantized.onnx")
    float_layers = len(recipe.get("keep_float", {"text": []})["text"])
    assert graph.count("MatMulInteger") == 6 * 3 + 1 - float_layers
    assert "calibrating on" in err


def test_what_is_calibrated_on_is_not_verified_on(toy_teacher_folder, tmp_path, export):
    from pair_shards import toy_samples, write_shard

    shard = tmp_path / "pairs.tar"
    write_shard(shard, toy_samples((48, 40)))
    _, report, _ = export(toy_teacher_folder, "--static", "--data", shard)
    total = len(toy_samples((48, 40)))
    calibration = report["verification"]["calibration"]
    assert calibration["apart"] is True
    assert report["verification"]["pairs"] == min(12, total - calibration["pairs"])
    assert calibration["pairs"] + report["verification"]["pairs"] <= total


def test_a_slower_precision_is_reported_and_refused_on_request(
    toy_teacher_folder, command_line, tmp_path, monkeypatch
):
    monkeypatch.setattr("tinyclip_export.verification.gates.MAX_SLOWDOWN", 0.0)
    words = ("export", toy_teacher_folder, "--int8", "--limit", 12, "--max-drop", 100)
    code, _, err = command_line(*words, "--out", tmp_path / "a")
    assert code == 0
    assert "note: int8 image is slower than fp32 on this machine: " in err
    code, _, err = command_line(*words, "--out", tmp_path / "b", "--require-faster")
    assert code == 3
    assert "int8 text is slower than fp32 on this machine" in err.splitlines()[-1]
    assert not (tmp_path / "b").exists()
