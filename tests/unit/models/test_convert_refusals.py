"""Checkpoints that are damaged, foreign or incomplete: each is refused in one line."""

from __future__ import annotations

import pytest
import torch

from checkpoint_layouts import encoders, twice, weights
from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import convert_checkpoint


def without(*names):
    return lambda state: {k: t for k, t in state.items() if not k.startswith(names)}


def changed(key, change):
    return lambda state: {**state, key: change(state[key])}


BLOCK = "visual.transformer.resblocks.1."
BAD = {
    "no image tower": (without("visual."), "no image tower; give a checkpoint with both"),
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
        "12 rows, which are not a square grid",
    ),
    "head width": (
        changed(f"{BLOCK}attn.in_proj_weight", lambda t: t[:150].clone()),
        "50 wide, which is not a multiple of the head width 64",
    ),
    "another network": (
        lambda _: {"visual.trunk.stem.weight": torch.ones(3), "text.x": torch.ones(2)},
        "is not a plain CLIP transformer or ResNet.*--config",
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
    "no weights": (lambda _: {"epoch": 3}, "values that are not tensors: 1 entries .epoch"),
    "nothing": (lambda _: {"state_dict": {}}, "holds no weights"),
    "a list": (lambda state: list(state.values()), "holds no weights"),
    "Hugging Face": (
        lambda _: {"vision_model.embeddings.class_embedding": torch.ones(3)},
        "weights of a Hugging Face CLIPModel: give its folder",
    ),
    "strays": (
        lambda state: {**encoders(state), "visual.proj": state["visual.proj"]},
        "separate encoders, and also 1 other tensors .visual.proj.",
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
