"""Hugging Face folders of CLIPModel and its relatives: config, weights, tokenizer, preprocessor."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from tinyclip_edge.aside import written_aside
from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.checkpoint_file import read_checkpoint
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.folder import save_local_dir
from tinyclip_edge.models.hf_config import (
    CONFIG,
    clip_config,
    read_model_cfg,
    read_preprocess_cfg,
    transformer_config,
    write_preprocessor_config,
)
from tinyclip_edge.models.hf_weights import from_huggingface, to_huggingface
from tinyclip_edge.models.json_file import read_json, write_json
from tinyclip_edge.models.library import open_clip
from tinyclip_edge.models.pruned import assemble_weights
from tinyclip_edge.models.pruned_units import UNITS
from tinyclip_edge.models.tokenization import (
    OPEN_CLIP_VOCABULARY,
    TOKENIZER,
    TOKENIZER_CONFIG,
    end_token_id,
    name_own_tokenizer,
    tokenizer_beside,
)
from tinyclip_edge.models.tokenizer_files import (
    from_vocabulary,
    from_word_pieces,
    write_tokenizer,
)
from tinyclip_edge.models.weights import plain_weights

WEIGHTS = "model.safetensors"
WEIGHT_NAMES = (WEIGHTS, "pytorch_model.bin")
_LOWER_CASE = ("Gemma", "Siglip2")  # tokenizers of SigLIP 2, whose texts keep their punctuation
_TABLES = ("vision_cfg", "text_cfg")
# open_clip settings that a CLIPModel also has, or that do not change features.
_SAME_IN_BOTH = {
    *("embed_dim", "quick_gelu", "init_logit_scale", "nonscalar_logit_scale"),
    *(f"vision_cfg.{key}" for key in ("image_size", "patch_size", "head_width", "patch_dropout")),
    *(f"text_cfg.{key}" for key in ("context_length", "vocab_size", "heads", "pool_type")),
    *(f"text_cfg.{key}" for key in ("eos_id", "pad_id", "tokenizer_kwargs", "tokenizer_mode")),
    "text_cfg.hf_tokenizer_name",
    *(f"{t}.{key}" for t in _TABLES for key in ("width", "layers", "mlp_ratio", "norm_kwargs")),
}

OpenClip: TypeAlias = Any  # a module of open_clip, read by its attribute names


def is_huggingface(folder: Path) -> bool:
    """Whether a folder is laid out as a Hugging Face model with PyTorch weights."""
    weights = (name + end for name in WEIGHT_NAMES for end in ("", ".index.json"))
    return (folder / CONFIG).is_file() and any((folder / name).is_file() for name in weights)


def load_huggingface(folder: Path, name: str, device: str | torch.device) -> LoadedClip:
    """Load the folder of a CLIPModel or its relatives, strictly. Raises ModelError."""
    model_cfg = read_model_cfg(folder / CONFIG)
    preprocess_cfg = read_preprocess_cfg(folder, model_cfg["vision_cfg"]["image_size"])
    tokenizer_file = _tokenizer_file(folder)
    _prepare_tokenizer(model_cfg, tokenizer_file, folder)
    weights, weights_file = _read_weights(folder)
    clip = assemble_weights(
        {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg},
        weights,
        name=name,
        source=str(folder / CONFIG),
        weights_file=weights_file,
        tokenizer_file=tokenizer_file,
        rename=from_huggingface,
    )
    _check_end(clip, folder)
    clip.model.to(device)
    return clip


def save_huggingface(folder: Path, clip: LoadedClip) -> None:
    """Write a ViT CLIP with equal layers as a folder that transformers and open_clip both open.

    Raises ModelError, before anything is written, for a model that has no CLIPModel form.
    """
    folder = Path(folder)
    _refuse_unsupported(clip)
    state = to_huggingface(clip.model.state_dict(), clip.name)
    try:
        with written_aside(folder) as aside:
            save_local_dir(aside, clip)
            special = write_tokenizer(clip, aside)
            if clip.config["model_cfg"]["text_cfg"].get("eos_id", special.end) != special.end:
                raise ModelError(f"{clip.name}: text_cfg.eos_id is not its tokenizer's end token")
            model: OpenClip = clip.model
            vision = _sizes(model.visual.transformer, model.visual.ln_post.eps)
            vision["patch_size"] = model.visual.conv1.kernel_size[0]
            text = _sizes(model.transformer, model.ln_final.eps)
            text["vocab_size"] = model.token_embedding.num_embeddings
            text["max_position_embeddings"] = clip.context_length
            write_json(aside / CONFIG, clip_config(clip, vision, text, special))
            write_preprocessor_config(clip, aside)
            safetensors.torch.save_file(state, aside / WEIGHTS, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        # safetensors wraps a full disk in an error of its own.
        cause = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ModelError(f"cannot write {folder}: {cause}") from error


def _sizes(transformer: OpenClip, eps: float) -> dict[str, Any]:
    block = transformer.resblocks[0]
    return transformer_config(
        width=block.mlp.c_proj.out_features,
        neurons=block.mlp.c_fc.out_features,
        layers=len(transformer.resblocks),
        heads=block.attn.num_heads,
        eps=eps,
    )


def _refuse_unsupported(clip: LoadedClip) -> None:
    """Raise ModelError for towers and settings that transformers' CLIPModel does not have."""
    model_cfg = clip.config["model_cfg"]
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    size = vision.get("image_size", 224)
    if UNITS in clip.config:
        fault = "its layers differ in size (prune with uniform_shapes: true for equal ones)"
    elif not isinstance(vision.get("layers", 12), int):
        fault = "its image tower is a ResNet"
    elif type(clip.model) is not open_clip.CLIP or not hasattr(clip.model.visual, "conv1"):
        fault = "one of its towers is not open_clip's own transformer"
    elif text.get("pool_type", "argmax") not in ("argmax", "eos"):
        fault = f"text_cfg.pool_type is {text['pool_type']!r}"
    elif not isinstance(size, int) and len(set(size)) > 1:
        fault = f"its input of {size} pixels is not square"
    else:
        fault = _unsupported_setting(model_cfg)
    if fault:
        raise ModelError(
            f"{clip.name} has no Hugging Face CLIPModel form: {fault}; "
            "keep it as an open_clip folder (--format open_clip)"
        )


def _unsupported_setting(model_cfg: dict[str, Any]) -> str:
    """Return a non-default setting that CLIPModel does not have, as ``key is value``; or ""."""
    defaults = {
        f"{table}.{field.name}": field.default
        for table, kind in (
            ("vision_cfg", open_clip.CLIPVisionCfg),
            ("text_cfg", open_clip.CLIPTextCfg),
        )
        for field in fields(kind)
    }
    settings = {key: value for key, value in model_cfg.items() if key not in _TABLES}
    for table in _TABLES:
        settings |= {f"{table}.{key}": value for key, value in model_cfg[table].items()}
        norm = model_cfg[table].get("norm_kwargs") or {}
        settings |= {f"{table}.norm_kwargs.{key}": v for key, v in norm.items() if key != "eps"}
    for key, value in settings.items():
        usual = (None, False, defaults.get(key))
        if key not in _SAME_IN_BOTH and value not in usual:
            return f"{key} is {value!r}"
    return ""


def _prepare_tokenizer(
    model_cfg: dict[str, Any], tokenizer_file: Path | None, folder: Path
) -> None:
    """Name the folder's tokenizer, and the cleaning of texts before it, in a model_cfg.

    Raises ModelError where a vocabulary that is not CLIP's has no tokenizer.
    """
    text_cfg = model_cfg["text_cfg"]
    if tokenizer_file is None and text_cfg["vocab_size"] > OPEN_CLIP_VOCABULARY:
        raise ModelError(
            f"{folder} has a vocabulary of {text_cfg['vocab_size']} and no {TOKENIZER}; put the "
            f"model's {TOKENIZER} beside its weights"
        )
    name_own_tokenizer(model_cfg, tokenizer_file)
    config = folder / TOKENIZER_CONFIG
    kind = str(read_json(config).get("tokenizer_class")) if config.is_file() else ""
    if "tokenizer_kwargs" in text_cfg and kind.startswith(_LOWER_CASE):
        text_cfg["tokenizer_kwargs"] = {"clean": "lower"}


def _tokenizer_file(folder: Path) -> Path | None:
    tokenizer_file = tokenizer_beside(folder)
    if (
        tokenizer_file is None
        and (folder / "vocab.json").is_file()
        and (folder / "merges.txt").is_file()
    ):
        return from_vocabulary(folder)
    if tokenizer_file is None and (folder / "vocab.txt").is_file():
        return from_word_pieces(folder)
    return tokenizer_file


def _check_end(clip: LoadedClip, folder: Path) -> None:
    text_cfg = clip.config["model_cfg"]["text_cfg"]
    if text_cfg.get("pool_type") != "eos":
        return
    end = end_token_id(clip.tokenizer)
    if end != text_cfg["eos_id"]:
        raise ModelError(
            f"{folder / CONFIG}: eos_token_id is {text_cfg['eos_id']}, the tokenizer ends texts "
            f"with {end}"
        )


def _read_weights(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """Return the tensors of the single weight file, or of all shards of an index."""
    for name in WEIGHT_NAMES:
        path, index = folder / name, folder / f"{name}.index.json"
        if path.is_file():
            return plain_weights(read_checkpoint(path), str(path)), path
        if index.is_file():
            weights: dict[str, Tensor] = {}
            for shard in _shards(index):
                weights |= plain_weights(read_checkpoint(shard), str(shard))
            return weights, index
    raise ModelError(f"{folder} has no weights: no {' or '.join(WEIGHT_NAMES)}")


def _shards(index: Path) -> list[Path]:
    table = read_json(index).get("weight_map")
    names = list(table.values()) if isinstance(table, dict) else []
    # Shards are in the index's folder: their names must not lead to another.
    if not names or not all(isinstance(n, str) and n and Path(n).name == n for n in names):
        raise ModelError(f"{index} has no weight_map of files in its folder")
    return [index.with_name(name) for name in sorted(set(names))]
