"""Checkpoint forms H and I: pruned by hand, or with masks that say what to prune."""

from __future__ import annotations

import json
import math
from copy import deepcopy

import pytest
import torch

from checkpoint_layouts import HEAD, encoders, prune_by_hand, twice, weights
from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.models import convert_checkpoint, load_clip, save_huggingface, save_local_dir
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.given_config import UserConfig


def masked(clip, *, heads, neurons, head_width=HEAD):
    """The toy with some heads and neurons without effect, as zeros in what reads them."""
    network = deepcopy(clip.model)
    blocks = [network.visual.transformer.resblocks, network.transformer.resblocks]
    with torch.no_grad():
        for tower, layer, head in heads:
            columns = slice(head_width * head, head_width * (head + 1))
            blocks[tower][layer].attn.out_proj.weight[:, columns] = 0
        for tower, layer, first in neurons:
            blocks[tower][layer].mlp.c_proj.weight[:, first:] = 0
    return network


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
    for output, right in zip(features(conversion.clip.model, toy_teacher), expected, strict=True):
        torch.testing.assert_close(output, right, atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match=r"layers differ in size .prune with uniform_shapes: true"):
        save_huggingface(place / "hf", conversion.clip)
    save_local_dir(place / "out", conversion.clip)
    again = load_clip(str(place / "out"))
    for output, right in zip(features(again.model, toy_teacher), expected, strict=True):
        torch.testing.assert_close(output, right, atol=1e-5, rtol=0)


@pytest.fixture
def narrow_heads(toy_teacher, place):
    """The toy with four heads of 32 channels in both towers, and its config as a file."""
    cfg = deepcopy(toy_teacher.config["model_cfg"])
    cfg["vision_cfg"].update(head_width=32, norm_kwargs={"eps": 0.01})
    cfg["text_cfg"].update(heads=4, act_kwargs={"approximate": "tanh"})
    clip = assemble(cfg, None, name="narrow", tokenizer_file=toy_teacher.tokenizer_file)
    clip.model.load_state_dict(toy_teacher.model.state_dict())
    (place / "narrow.json").write_text(json.dumps(cfg))
    return clip


# Three of four heads are not a multiple of 64 channels; two of four are, and look like one of 64.
@pytest.mark.parametrize(
    "heads",
    [
        [(0, 0, 1), (0, 3, 2), (1, 1, 0)],
        [(0, 0, 1), (0, 0, 3), (1, 1, 0), (1, 1, 1)],
        [(tower, layer, head) for tower, layers in ((0, 4), (1, 3)) for layer in range(layers)
         for head in (0, 3)],
    ],
    ids=["three of four", "two of four", "two of four everywhere"],
)  # fmt: skip
def test_the_config_gives_the_width_of_a_head(place, narrow_heads, heads):
    neurons = [(0, 1, 100), (1, 2, 300)]
    cut = {"heads": heads, "neurons": neurons, "head_width": 32}
    torch.save(twice(prune_by_hand(weights(narrow_heads), **cut)), place / "auto.pt")
    conversion = convert_checkpoint(str(place / "auto.pt"), config=str(place / "narrow.json"))
    expected = features(masked(narrow_heads, **cut), narrow_heads)
    for output, right in zip(features(conversion.clip.model, narrow_heads), expected, strict=True):
        torch.testing.assert_close(output, right, atol=1e-5, rtol=0)
    assert conversion.notes == (
        f"sizes come from the pruned weights, the width of a head from {place / 'narrow.json'}",
    )
    # The folder of such a conversion names the width as well.
    save_local_dir(place / "out", conversion.clip)
    again = convert_checkpoint(str(place / "auto.pt"), config=str(place / "out"))
    for output, right in zip(features(again.clip.model, narrow_heads), expected, strict=True):
        torch.testing.assert_close(output, right, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("tower", "key", "value"),
    [("text_cfg", "heads", 0), ("text_cfg", "heads", "x"), ("text_cfg", "width", None),
     ("vision_cfg", "head_width", 0), ("vision_cfg", "head_width", True)],
)  # fmt: skip
def test_a_config_of_odd_heads_is_refused_in_a_line(place, narrow_heads, tower, key, value):
    torch.save(twice(weights(narrow_heads)), place / "auto.pt")
    config = json.loads((place / "narrow.json").read_text())
    config[tower][key] = value
    (place / "narrow.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="must be whole numbers above 0"):
        convert_checkpoint(str(place / "auto.pt"), config=str(place / "narrow.json"))


def test_more_heads_than_channels_are_refused():
    config = UserConfig({"vision_cfg": {}, "text_cfg": {"width": 64, "heads": 1_000_000}})
    with pytest.raises(ModelError, match=r"heads 1,000,000 is more than its width 64"):
        _ = config.head_widths


def test_without_a_config_heads_of_another_width_are_refused(place, narrow_heads):
    cut = prune_by_hand(weights(narrow_heads), heads=[(0, 0, 1)], neurons=[], head_width=32)
    torch.save(twice(cut), place / "auto.pt")
    with pytest.raises(
        ModelError, match=r"96 wide, which is not a multiple of the head width 64; .*--config"
    ):
        convert_checkpoint(str(place / "auto.pt"))


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
    result = weights(conversion.clip)
    assert result.keys() == state.keys()
    assert all(torch.equal(result[key], state[key]) for key in state)
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
    for output, right in zip(features(conversion.clip.model, toy_teacher), expected, strict=True):
        torch.testing.assert_close(output, right, atol=1e-5, rtol=0)
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
