"""Checkpoint forms A to I, built from the toy teacher: what comes out are its own weights."""

from __future__ import annotations

import argparse
import shutil

import pytest
import safetensors.torch
import torch

from checkpoint_layouts import encoders, prune_by_hand, twice, weights
from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import convert_checkpoint, load_clip, save_huggingface

FORMS = {
    ("A",): lambda state: state,
    ("B", "A"): lambda state: {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=1)},
    ("C",): lambda state: {f"module.{key}": t for key, t in state.items()},
    ("B", "C"): lambda state: {"state_dict": {f"module.{key}": t for key, t in state.items()}},
    ("D",): encoders,
    ("E",): lambda state: encoders(state, "module."),
    ("B", "E"): lambda state: {"state_dict": encoders(state, "module."), "optimizer": [{}]},
    ("F", "A"): lambda state: {"model": state},
    ("A", "G"): lambda state: {key: t.half() for key, t in state.items()},
    ("B", "E", "I"): lambda state: {"state_dict": twice(state)},
}


@pytest.mark.parametrize("forms", FORMS, ids="".join)
def test_form(place, toy_teacher, forms):
    state = weights(toy_teacher)
    torch.save(FORMS[forms](state), place / "toy.pt")
    conversion = convert_checkpoint(str(place / "toy.pt"))
    assert conversion.forms == forms
    converted = weights(conversion.clip)
    assert converted.keys() == state.keys()
    for key, tensor in state.items():
        expected = tensor.half().float() if "G" in forms else tensor
        assert converted[key].dtype is torch.float32
        assert torch.equal(converted[key], expected), key
    assert conversion.clip.config["model_cfg"] == {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": 32, "patch_size": 8, "width": 128, "layers": 4, "head_width": 64,
        },
        "text_cfg": {
            "context_length": 16, "vocab_size": len(state["token_embedding.weight"]),
            "width": 128, "heads": 2, "layers": 3, "hf_tokenizer_name": "tokenizer.json",
        },
    }  # fmt: skip


def test_safetensors_and_what_it_says(place, toy_teacher):
    safetensors.torch.save_file(weights(toy_teacher), place / "toy.safetensors")
    conversion = convert_checkpoint(str(place / "toy.safetensors"))
    assert conversion.clip.name == "toy"
    vocabulary = toy_teacher.model.vocab_size
    assert conversion.architecture == (
        "ViT/8 of width 128, 4 layers, 2 heads, 512 neurons, 32 px; text of width 128, 3 layers, "
        f"2 heads, 512 neurons, context 16, vocabulary {vocabulary}; embedding 64"
    )
    assert conversion.activation == "GELU (by default)"
    assert any("weights do not show the activation" in note for note in conversion.notes)
    facts = conversion.as_dict()
    # by hand: 4 blocks of 12·128² + 13·128, patches, class, 17 positions, 3 norms, projection
    assert facts["parameters"]["image"] == 4 * 198_272 + 24_576 + 128 * (1 + 17 + 4 + 64)
    assert facts["parameters"]["text"] == 3 * 198_272 + 128 * (16 + 2 + 64)


def test_resnet(tmp_path, toy_tokenizer_file):
    from tinyclip_edge.models.assemble import assemble

    shutil.copyfile(toy_tokenizer_file, tmp_path / "tokenizer.json")
    vision = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None}
    text = {"context_length": 16, "vocab_size": 700, "width": 64, "heads": 1, "layers": 2}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    clip = assemble(config, None, name="rn", tokenizer_file=toy_tokenizer_file)
    torch.save({"state_dict": encoders(weights(clip), "module.")}, tmp_path / "rn.pt")
    conversion = convert_checkpoint(str(tmp_path / "rn.pt"))
    assert conversion.architecture.startswith("ResNet of 1-2-1-1 blocks, width 16, 64 px")
    pixels = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = clip.model.encode_image(pixels)
        assert torch.equal(conversion.clip.model.encode_image(pixels), expected)
    assert conversion.clip.config["model_cfg"]["vision_cfg"] == vision
    torch.save(prune_by_hand(weights(clip), heads=[], neurons=[(1, 1, 100)]), tmp_path / "rn.pt")
    with pytest.raises(
        ModelError, match=r"rn\.pt: the text layers differ in size and the image tower is a ResNet"
    ):
        convert_checkpoint(str(tmp_path / "rn.pt"))


def test_activation(place, toy_teacher):
    path, state = str(place / "toy.pt"), weights(toy_teacher)

    def save(**arguments):
        torch.save({"state_dict": state, "args": argparse.Namespace(**arguments)}, path)

    def quick(**options):
        clip = convert_checkpoint(path, **options).clip
        name = type(clip.model.transformer.resblocks[0].mlp.gelu).__name__
        assert (name == "QuickGELU") == bool(clip.config["model_cfg"].get("quick_gelu"))
        return name == "QuickGELU"

    save(lr=1)
    assert not quick()
    assert quick(quick_gelu=True)
    save(model="ViT-B-32", force_quick_gelu=True)
    assert quick()
    assert not quick(quick_gelu=False)
    save(model="ViT-B-32-quickgelu", force_quick_gelu=False)
    assert quick()
    save(model="ViT-B-32", force_quick_gelu=False)
    assert not quick()
    assert convert_checkpoint(path).notes == ()


def test_config(place, toy_teacher, toy_teacher_folder, tmp_path):
    path = str(place / "toy.pt")
    torch.save(weights(toy_teacher), path)
    folder = convert_checkpoint(path, config=str(toy_teacher_folder))
    file = convert_checkpoint(path, config=str(toy_teacher_folder / "open_clip_config.json"))
    for conversion in (folder, file):
        assert conversion.clip.config == toy_teacher.config
        assert conversion.notes == ()
    save_huggingface(tmp_path / "hf", toy_teacher)
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (tmp_path / "hf" / name).unlink()
    named = convert_checkpoint(path, config=str(tmp_path / "hf")).clip
    assert named.config["preprocess_cfg"] == toy_teacher.config["preprocess_cfg"]
    assert torch.equal(named.model.visual.proj, toy_teacher.model.visual.proj)
    with pytest.raises(ModelError, match=r"does not fit its config: .* missing .* misshapen"):
        convert_checkpoint(path, config="TinyCLIP-ViT-8M-16-Text-3M")
    recipe = convert_checkpoint(path, config="TinyCLIP-auto-ViT-63M-32-Text-31M")
    assert torch.equal(recipe.clip.model.visual.proj, toy_teacher.model.visual.proj)
    assert "GELU (from TinyCLIP-auto" in recipe.activation
    for name, message in (
        ("ViT-B-23", "no config 'ViT-B-23'; did you mean 'ViT-B-32'"),
        ("TinyCLIP-ViT-39M-16-Text-91M", "did you mean 'TinyCLIP-ViT-39M-16-Text-19M'"),
        ("ViT-B-32/laion2b", "ViT-B-32 has no pretrained tag 'laion2b'"),
        ("nothing like it at all", "give a zoo name"),
    ):
        with pytest.raises(ModelError, match=message):
            convert_checkpoint(path, config=name)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ModelError, match=r"cannot read .*broken\.json"):
        convert_checkpoint(path, config=str(broken))
    broken.write_text('{"embed_dim": 64}')
    with pytest.raises(ModelError, match=r"broken\.json: model_cfg has no 'vision_cfg'"):
        convert_checkpoint(path, config=str(broken))


def test_starter_shape_by_name(tmp_path):
    starter = load_clip("starter-15", allow_random=True)
    torch.save({"state_dict": encoders(weights(starter))}, tmp_path / "s.pt")
    conversion = convert_checkpoint(str(tmp_path / "s.pt"), config="starter-15")
    state = weights(conversion.clip)
    assert all(torch.equal(t, state[key]) for key, t in weights(starter).items())
    assert conversion.clip.tokenizer_file == starter.tokenizer_file


def test_model_folders_come_with_their_config(toy_teacher_folder, toy_teacher):
    conversion = convert_checkpoint(str(toy_teacher_folder))
    assert conversion.forms == ()
    assert "toy-teacher" in conversion.found
    with pytest.raises(ModelError, match="has its own config"):
        convert_checkpoint(str(toy_teacher_folder), quick_gelu=True)
    with pytest.raises(ModelError, match=r"no checkpoint file nowhere\.pt"):
        convert_checkpoint("nowhere.pt")


def test_load_clip_sends_a_file_to_convert(place, toy_teacher):
    torch.save(weights(toy_teacher), place / "toy.pt")
    with pytest.raises(ModelError, match=r"tinyclip-edge convert .*toy\.pt --out"):
        load_clip(str(place / "toy.pt"))
