"""`tinyclip-edge export MODEL` on folders as they are published: no training, one command.

What a bundle answers is compared with the library that wrote the folder.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from PIL import Image

from hugging_face import PillowProcessor, embedding
from tinyclip_edge.models import load_clip, save_local_dir
from tinyclip_edge.models.build import build_model
from tinyclip_edge.runtime.edge import EdgeCLIP

TEXTS = ["a photo of the red dog", "The BLUE square, and a circle!", "cat"]


@pytest.fixture(scope="module")
def clip_model_folder(toy_tokenizer_file, tmp_path_factory):
    """A CLIPModel that transformers made and saved."""
    from tokenizers import Tokenizer
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    vocabulary = Tokenizer.from_file(str(toy_tokenizer_file)).get_vocab_size()
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2}
    text = {
        **sizes,
        "num_hidden_layers": 2,
        "vocab_size": vocabulary,
        "max_position_embeddings": 16,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }
    vision = {**sizes, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    folder = tmp_path_factory.mktemp("published") / "clip-model"
    model.eval().save_pretrained(folder)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    processor.save_pretrained(folder)
    shutil.copyfile(toy_tokenizer_file, folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory):
    """An open_clip folder as its SigLIPs lie on the hub: timm ViT, padded text, logit bias."""
    folder = tmp_path_factory.mktemp("published") / "siglip"
    folder.mkdir()
    vocabulary = write_other_tokenizer(folder)
    model_cfg = {
        "embed_dim": 96,  # the width of the towers: they have no projection
        "init_logit_bias": -2.0,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit4",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": 10,
            "vocab_size": vocabulary,
            "hf_tokenizer_name": "toy/siglip",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 64,
            "heads": 2,
            "layers": 2,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    }
    torch.manual_seed(0)
    state = build_model(model_cfg, "toy").state_dict()
    # Initial words are so alike that any two texts would be neighbours.
    state["text.token_embedding.weight"].mul_(50)
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    half = [0.5, 0.5, 0.5]
    preprocess = {"mean": half, "std": half, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def write_other_tokenizer(folder):
    """A tokenizer with an end but no start, padded with a token that is not zero."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [
        "<unk>",
        "<pad>",
        "</s>",
        *["a", "photo", "of", "the", "red", "blue", "dog", "cat", "square", "and", "circle"],
    ]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    )
    fast.save_pretrained(folder)
    return len(words)


@pytest.fixture
def export(command_line, tmp_path):
    """Export with the command line; returns the bundle's folder and what it reports."""

    def run(model, *options):
        out = tmp_path / "bundle"
        words = ("--out", out, "--limit", 8, "--max-drop", 100, "--json", *options)
        code, stdout, stderr = command_line("export", model, *words)
        assert code == 0, stderr
        return out, json.loads(stdout)

    return run


def picture(side=50):
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (side, side + 9, 3), dtype=np.uint8)
    )


def test_clip_model_folder_becomes_a_verified_int8_bundle(clip_model_folder, export):
    from transformers import CLIPModel, CLIPTokenizerFast

    out, report = export(clip_model_folder, "--int8")
    assert report["precisions"] == ["fp32", "int8"]
    for figures in report["verification"]["precisions"].values():
        # At toy size int8 may be slower, which is said and no gate.
        checks = {
            name: passed for name, passed in figures["checks"].items() if "latency" not in name
        }
        assert all(checks.values())
        assert len(checks) == 10
    model = CLIPModel.from_pretrained(clip_model_folder).eval()
    tokenizer = CLIPTokenizerFast(tokenizer_file=str(out / "tokenizer.json"), pad_token="!")
    processor = PillowProcessor.from_pretrained(clip_model_folder)
    with torch.inference_mode():
        pixels = processor(picture(), return_tensors="pt").pixel_values
        image = embedding(model.get_image_features(pixels)).numpy()
        rows = [tokenizer(t, return_tensors="pt").input_ids for t in ("a red cat", "the dog")]
        text = np.concatenate([embedding(model.get_text_features(row)).numpy() for row in rows])
    for precision, gate in (("fp32", 0.999999), ("int8", 0.99)):
        clip = EdgeCLIP.load(out, precision=precision)
        assert cosines(clip.encode_image([picture()]), image).min() > gate
        assert cosines(clip.encode_text(["a red cat", "the dog"]), text).min() > gate


def cosines(unit, features):
    return (unit * features).sum(axis=1) / np.linalg.norm(features, axis=1)


@pytest.mark.slow
def test_siglip_folder_keeps_its_padding_its_tokenizer_and_its_sigmoid(siglip_folder, export):
    out, _ = export(siglip_folder)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["inputs"] == {
        "batch": None,
        "padding": "max_length",
        "pad_id": 1,
        "ids": "int64",
    }
    assert manifest["tokenizer"] == {"clean": "canonicalize", "end": 2, "dropped": None}
    assert manifest["logit_bias"] == -2.0
    assert manifest["verification"]["padding"] == "max_length"

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{siglip_folder}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{siglip_folder}")
    with torch.inference_mode():
        image = model.encode_image(preprocess(picture())[None], normalize=True).numpy()
        text = model.encode_text(tokenizer(TEXTS), normalize=True).numpy()
        scale = model.logit_scale.exp().item()
    clip = EdgeCLIP.load(out)
    assert np.abs(clip.encode_image([picture()]) - image).max() < 1e-5
    assert np.abs(clip.encode_text(TEXTS) - text).max() < 1e-5
    probabilities = dict(clip.classify(picture(), TEXTS))
    for label, cosine in zip(TEXTS, text @ image[0], strict=True):
        # each label by itself: 1 / (1 + exp(-(scale cos + bias)))
        expected = 1 / (1 + np.exp(-(scale * cosine - 2.0)))
        assert probabilities[label] == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_static_batch_is_verified_and_filled_up_by_the_runtime(toy_teacher_folder, export):
    out, report = export(toy_teacher_folder, "--static-batch", 3, "--int8")
    assert report["verification"]["batch"] == 3
    assert report["verification"]["padding"] == "max_length"
    clip, teacher = EdgeCLIP.load(out, precision="fp32"), load_clip(str(toy_teacher_folder))
    texts = [*TEXTS, "a blue bicycle"]
    with torch.inference_mode():
        expected = teacher.model.encode_text(teacher.tokenizer(texts), normalize=True).numpy()
        pixels = teacher.preprocess(picture())[None]
        image = teacher.model.encode_image(pixels, normalize=True).numpy()
    assert np.abs(clip.encode_text(texts) - expected).max() < 1e-5
    assert np.abs(clip.encode_image([picture()]) - image).max() < 1e-5


@pytest.mark.slow
def test_resnet_folder(toy_tokenizer_file, tmp_path, export):
    from tokenizers import Tokenizer

    from tinyclip_edge.models.assemble import assemble

    vocabulary = Tokenizer.from_file(str(toy_tokenizer_file)).get_vocab_size()
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": {"context_length": 16, "vocab_size": vocabulary, "width": 64, "layers": 1},
    }
    clip = assemble(config, None, name="resnet", tokenizer_file=toy_tokenizer_file)
    save_local_dir(tmp_path / "resnet", clip)
    out, _ = export(tmp_path / "resnet")
    with torch.inference_mode():
        pixels = clip.preprocess(picture())[None]
        expected = clip.model.encode_image(pixels, normalize=True).numpy()
    assert np.abs(EdgeCLIP.load(out).encode_image([picture()]) - expected).max() < 1e-5


@pytest.mark.parametrize("kind", ["jina_clip", "blip"])
def test_other_models_of_transformers_are_refused_in_one_line(kind, tmp_path, command_line):
    folder = tmp_path / kind
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    code, out, err = command_line("export", folder, "--out", tmp_path / "bundle")
    assert code == 2
    assert out == ""
    assert kind in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "bundle").exists()
