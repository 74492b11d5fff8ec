"""Checkpoint forms A to I, built from the toy teacher: what comes out are its own weights."""

from __future__ import annotations

import argparse
import math
import shutil
from copy import deepcopy

import pytest
import safetensors.torch
import torch

from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.models import convert_checkpoint, load_clip, save_huggingface, save_local_dir

HEAD = 64


@pytest.fixture
def place(tmp_path, toy_tokenizer_file):
    """A folder with the tokenizer that the toy's vocabulary needs."""
    shutil.copyfile(toy_tokenizer_file, tmp_path / "tokenizer.json")
    return tmp_path


def weights(clip):
    return {key: t.clone() for key, t in clip.model.state_dict().items()}


def encoders(state, inner=""):
    """Names of a checkpoint whose encoders stand apart."""
    out = {}
    for key, tensor in state.items():
        if key.startswith("visual."):
            out[f"_image_encoder.{inner}{key}"] = tensor
        elif key == "logit_scale":
            out[f"_logit_scale.{inner}{key}"] = tensor
        else:
            out[f"_text_encoder.{inner}{key}"] = tensor
    return out


def twice(state):
    """Names of a pruned checkpoint: the second copy is not wrapped."""
    copy = {
        key.replace("_image_encoder.", "image_encoder_without_ddp.")
        .replace("_text_encoder.", "text_encoder_without_ddp.")
        .replace("_logit_scale.", "logit_scale_without_ddp."): t.clone()
        for key, t in encoders(state).items()
    }
    return {**encoders(state, "module."), **copy}


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
    found = weights(conversion.clip)
    assert found.keys() == state.keys()
    for key, tensor in state.items():
        expected = tensor.half().float() if "G" in forms else tensor
        assert found[key].dtype is torch.float32
        assert torch.equal(found[key], expected), key
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
    assert any("weights do not tell the activation" in note for note in conversion.notes)
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
    with pytest.raises(ModelError, match=r"rn\.pt: the text layers differ .* ResNet image tower"):
        convert_checkpoint(str(tmp_path / "rn.pt"))


def masked(clip, *, heads, neurons):
    """The toy with some heads and neurons without effect, as zeros in what reads them."""
    network = deepcopy(clip.model)
    blocks = [network.visual.transformer.resblocks, network.transformer.resblocks]
    with torch.no_grad():
        for tower, layer, head in heads:
            blocks[tower][layer].attn.out_proj.weight[:, HEAD * head : HEAD * (head + 1)] = 0
        for tower, layer, first in neurons:
            blocks[tower][layer].mlp.c_proj.weight[:, first:] = 0
    return network


def prune_by_hand(state, *, heads, neurons):
    """The same cut out, as published: a block without heads has neither ln_1 nor attn."""
    state = dict(state)
    prefixes = ["visual.transformer.resblocks.", "transformer.resblocks."]
    for tower, layer, first in neurons:
        block = f"{prefixes[tower]}{layer}."
        for key in ("mlp.c_fc.weight", "mlp.c_fc.bias"):
            state[block + key] = state[block + key][:first].clone()
        key = f"{block}mlp.c_proj.weight"
        state[key] = state[key][:, :first].clone()
    for tower, layer in {(tower, layer) for tower, layer, _ in heads}:
        block = f"{prefixes[tower]}{layer}."
        gone = {head for t, n, head in heads if (t, n) == (tower, layer)}
        kept = [head for head in range(2) if head not in gone]
        if not kept:
            for key in [k for k in state if k.startswith((f"{block}ln_1.", f"{block}attn."))]:
                del state[key]
            continue
        for key in ("attn.in_proj_weight", "attn.in_proj_bias"):
            rows = state[block + key]
            rows = rows.reshape(3, 2, HEAD, *rows.shape[1:])[:, kept]
            state[block + key] = rows.flatten(0, 2).clone()
        key = f"{block}attn.out_proj.weight"
        state[key] = state[key].reshape(128, 2, HEAD)[:, kept].flatten(1).clone()
    return state


def features(network, clip):
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ids = clip.tokenizer(["a photo of a cat", "the red bicycle", "dog"])
    with torch.inference_mode():
        return network.encode_image(pixels, normalize=True), network.encode_text(
            ids, normalize=True
        )


@pytest.mark.parametrize("neurons", [[(0, 1, 100), (1, 2, 300)], [(0, 1, 0), (1, 0, 7)]])
def test_pruned_layers(place, toy_teacher, neurons):
    heads = [(0, 0, 1), (0, 2, 0), (0, 2, 1), (1, 1, 0)]
    with torch.no_grad():  # the published files lose this bias; a zero has no effect
        toy_teacher.model.visual.transformer.resblocks[2].attn.out_proj.bias.zero_()
    pruned = prune_by_hand(weights(toy_teacher), heads=heads, neurons=neurons)
    torch.save({"state_dict": twice(pruned)}, place / "auto.pt")
    conversion = convert_checkpoint(str(place / "auto.pt"))
    assert conversion.forms == ("B", "E", "I")
    expected = features(masked(toy_teacher, heads=heads, neurons=neurons), toy_teacher)
    for found, right in zip(features(conversion.clip.model, toy_teacher), expected, strict=True):
        torch.testing.assert_close(found, right, atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match=r"layers differ in size .prune with uniform_shapes: true"):
        save_huggingface(place / "hf", conversion.clip)
    save_local_dir(place / "out", conversion.clip)
    again = load_clip(str(place / "out"))
    for found, right in zip(features(again.model, toy_teacher), expected, strict=True):
        torch.testing.assert_close(found, right, atol=1e-5, rtol=0)


def test_pruned_hidden_channels(place, toy_teacher):
    # 96 of 128 channels: a width that no whole number of heads fills
    state = weights(toy_teacher)
    for key, tensor in state.items():
        if key.endswith("visual.proj") or key == "text_projection":
            state[key] = tensor[:96].clone()
        elif "c_fc.bias" in key or "in_proj_bias" in key or key == "logit_scale":
            continue
        elif (
            "c_proj.weight" in key
            or "out_proj.weight" in key
            or "conv1" in key
            or (tensor.ndim == 1)
        ):
            state[key] = tensor[:96].clone()
        else:
            state[key] = tensor[:, :96].clone()
    torch.save(twice(state), place / "narrow.pt")
    conversion = convert_checkpoint(str(place / "narrow.pt"))
    assert "ViT/8 of width 96, 4 layers, 2 heads, 512 neurons" in conversion.architecture
    found = weights(conversion.clip)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)
    features(conversion.clip.model, toy_teacher)


OPEN, SHUT = math.log(100), -math.log(100)  # where the published clamp holds log-alphas


def gates(*, shut_head, open_=OPEN):
    """Log-alphas of a tower: one head of two and the last 400 neurons of one layer are off."""
    heads, neurons = torch.full((4, 2), open_), torch.full((4, 512), open_)
    heads[shut_head] = SHUT
    neurons[1, 112:] = SHUT
    return {"hidden_loga": torch.full((128,), open_), "heads_loga": heads,
            "intermediate_loga": neurons, "lambda_1": torch.tensor(9.0),
            "lambda_2": torch.tensor(11.0)}  # fmt: skip


def test_masks_are_applied(place, toy_teacher):
    state = encoders(weights(toy_teacher), "module.")
    learnt = gates(shut_head=(2, 1))
    state |= {f"_image_encoder.module.l0_module.{key}": t for key, t in learnt.items()}
    torch.save({"state_dict": state}, place / "masks.pt")
    conversion = convert_checkpoint(str(place / "masks.pt"))
    assert conversion.forms == ("B", "E", "H")
    # by hand: 1 - P[on] of a shut gate is 0.954, so 382 of 400 neurons go, and the shut head
    off = 1 / (1 + math.exp(-(2 / 3 * math.log(1 / 11) - SHUT)))
    gone = round(400 * off)
    z = 1 / (1 + math.exp(-0.8 * OPEN * 1.5))
    weak = 1 / (1 + math.exp(-0.8 * SHUT * 1.5))
    reference = masked(toy_teacher, heads=[(0, 2, 1)], neurons=[(0, 1, 512 - gone)])
    visual = reference.visual
    with torch.no_grad():
        for tensor in (visual.conv1.weight, visual.class_embedding, visual.positional_embedding):
            tensor.mul_(z)
        for layer, block in enumerate(visual.transformer.resblocks):
            for part in (block.attn.out_proj, block.mlp.c_proj):
                part.bias.mul_(z)
                part.weight.mul_(z * z)
            if layer == 1:
                block.mlp.c_proj.weight[:, 112:] *= weak / z
    expected = features(reference, toy_teacher)
    for found, right in zip(features(conversion.clip.model, toy_teacher), expected, strict=True):
        torch.testing.assert_close(found, right, atol=1e-5, rtol=0)
    # the text tower has no masks: it stays as it was, to the bit
    text = weights(conversion.clip)
    assert torch.equal(text["text_projection"], toy_teacher.model.text_projection)
    assert any("masks applied" in note for note in conversion.notes)


def test_masks_that_do_not_fit(place, toy_teacher):
    state = encoders(weights(toy_teacher))
    wrong = {**state, "_text_encoder.l0_module.heads_loga": torch.zeros(3, 5)}
    torch.save(wrong, place / "wrong.pt")
    with pytest.raises(ModelError, match=r"text heads_loga \[3, 5\] for \[3, 2\]"):
        convert_checkpoint(str(place / "wrong.pt"))
    # unequal layers: as many rows and columns as the first layer promises, and still too many
    uneven = encoders(prune_by_hand(weights(toy_teacher), heads=[(0, 2, 1)], neurons=[]))
    uneven["_image_encoder.l0_module.heads_loga"] = torch.zeros(4, 2)
    torch.save(uneven, place / "uneven.pt")
    with pytest.raises(ModelError, match=r"image heads_loga \[4, 2\]"):
        convert_checkpoint(str(place / "uneven.pt"))
    layers = {**state, "_text_encoder.l0_module.mha_loga": torch.zeros(3)}
    torch.save(layers, place / "layers.pt")
    with pytest.raises(ModelError, match="masks over mha cannot be applied"):
        convert_checkpoint(str(place / "layers.pt"))
    empty = {**state, "_image_encoder.l0_module.hidden_loga": torch.full((9,), 1.0)}
    torch.save(empty, place / "empty.pt")
    with pytest.raises((ModelError, InheritanceError), match="hidden_loga"):
        convert_checkpoint(str(place / "empty.pt"))


def without(*names):
    return lambda state: {k: t for k, t in state.items() if not k.startswith(names)}


def changed(key, change):
    return lambda state: {**state, key: change(state[key])}


BLOCK = "visual.transformer.resblocks.1."
BAD = {
    "no image tower": (without("visual."), "no image tower; a missing tower is not filled"),
    "no text tower": (
        lambda state: {k: t for k, t in state.items() if k.startswith(("visual.", "logit"))},
        "no text tower",
    ),
    "missing": (
        without("visual.ln_pre.", "ln_final."),
        r"4 missing \(ln_final.bias, ln_final.weight, visual.ln_pre.bias, visual.ln_pre.weight\)",
    ),
    "no attention in one block": (
        without(f"{BLOCK}attn.", f"{BLOCK}ln_1."),
        r"6 missing \(visual.transformer.resblocks.1.attn.in_proj_bias, .*, …\)",
    ),
    "a block too few": (without(BLOCK), r"12 missing \(visual.transformer.resblocks.1.*, …\)"),
    "extra": (lambda state: {**state, "visual.head.weight": torch.ones(3)}, "1 unknown .*head"),
    "misshapen": (
        changed("ln_final.weight", lambda t: t[:100].clone()),
        r"1 misshapen \(ln_final.weight \[100\] for \[128\]\)",
    ),
    "NaN": (changed("visual.proj", lambda t: t * torch.nan), "NaN or infinite .*visual.proj"),
    "grid": (
        changed("visual.positional_embedding", lambda t: t[:12].clone()),
        "12 rows, no square grid",
    ),
    "head width": (
        changed(f"{BLOCK}attn.in_proj_weight", lambda t: t[:150].clone()),
        "50 wide, no multiple of 64",
    ),
    "another network": (
        lambda _: {"visual.trunk.stem.weight": torch.ones(3), "text.x": torch.ones(2)},
        "is no plain CLIP transformer or ResNet.*--config",
    ),
    "flat": (
        changed("visual.positional_embedding", lambda t: t.flatten()),
        r"misshapen \(visual.positional_embedding",
    ),
    "deep": (
        changed("visual.positional_embedding", lambda t: t[None].clone()),
        r"1 misshapen \(visual.positional_embedding",
    ),
    "hollow": (
        changed("positional_embedding", lambda t: t[:, :0].clone()),
        r"1 misshapen \(positional_embedding",
    ),
    "a number for a weight": (
        changed(f"{BLOCK}mlp.c_fc.weight", lambda _: torch.tensor(1.0)),
        rf"1 misshapen \({BLOCK}mlp.c_fc.weight \[\]",
    ),
    "no weights": (lambda _: {"epoch": 3}, "something else than tensors: 1 entries .epoch"),
    "nothing": (lambda _: {"state_dict": {}}, "holds no weights"),
    "a list": (lambda state: list(state.values()), "holds no weights"),
    "Hugging Face": (
        lambda _: {"vision_model.embeddings.class_embedding": torch.ones(3)},
        "weights of a Hugging Face CLIPModel: give its folder",
    ),
    "strays": (
        lambda state: {**encoders(state), "visual.proj": state["visual.proj"]},
        "1 other tensors .visual.proj. beside them",
    ),
    "wrong tower": (
        lambda state: {**encoders(state), "_image_encoder.ln_final.weight": torch.ones(128)},
        "1 unknown .image encoder: ln_final.weight",
    ),
    "copies": (
        lambda state: changed("image_encoder_without_ddp.visual.proj", lambda t: t + 1)(
            twice(state)
        ),
        r"the copies differ in 1 tensors \(image visual.proj\)",
    ),
    "half a copy": (
        lambda state: without("text_encoder_without_ddp.ln_final")(twice(state)),
        r"the copies differ in 2 tensors \(text ln_final.bias, text ln_final.weight\)",
    ),
    "pruned and torn": (
        lambda state: twice(without(f"{BLOCK}attn.in_proj")(state)),
        "3 unknown",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(place, toy_teacher, case):
    change, message = BAD[case]
    torch.save(change(weights(toy_teacher)), place / "bad.pt")
    with pytest.raises(ModelError, match=message) as caught:
        convert_checkpoint(str(place / "bad.pt"))
    assert "\n" not in str(caught.value)
    assert "bad.pt" in str(caught.value)


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
    found = weights(conversion.clip)
    assert all(torch.equal(t, found[key]) for key, t in weights(starter).items())
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
