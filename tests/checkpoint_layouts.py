"""The toy's weights named, doubled and cut as published checkpoints hold them."""

from __future__ import annotations

HEAD = 64


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


def prune_by_hand(state, *, heads, neurons, head_width=HEAD):
    """The same cut out, as published: a block without heads has neither ln_1 nor attn."""
    count = 128 // head_width
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
        remaining = [head for head in range(count) if head not in gone]
        if not remaining:
            for key in [k for k in state if k.startswith((f"{block}ln_1.", f"{block}attn."))]:
                del state[key]
            continue
        for key in ("attn.in_proj_weight", "attn.in_proj_bias"):
            rows = state[block + key]
            rows = rows.reshape(3, count, head_width, *rows.shape[1:])[:, remaining]
            state[block + key] = rows.flatten(0, 2).clone()
        key = f"{block}attn.out_proj.weight"
        state[key] = state[key].reshape(128, count, head_width)[:, remaining].flatten(1).clone()
    return state
