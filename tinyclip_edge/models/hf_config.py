"""``config.json`` and ``preprocessor_config.json`` of a Hugging Face CLIPModel, both ways."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.errors import ModelError, TinyClipWarning
from tinyclip_edge.models.hf_encoders import read_bert_cfg, read_xlm_roberta_cfg
from tinyclip_edge.models.hf_fields import read_count, read_head_width, read_sizes, read_tower
from tinyclip_edge.models.hf_siglip import read_siglip_cfg
from tinyclip_edge.models.json_file import read_json, write_json

if TYPE_CHECKING:
    from tinyclip_edge.models.clip import LoadedClip
    from tinyclip_edge.models.tokenizer_files import SpecialTokens

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"  # the only one that transformers 5 writes
_NESTED = "image_processor"
_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers
_LEGACY_EOS = 2  # config files of 2021 to 2023 say 2 and mean the highest id of a text
_EPS = 1e-5
# transformers' defaults for keys that a config.json omits.
_TRANSFORMER = {"hidden_act": "quick_gelu", "layer_norm_eps": _EPS, "num_hidden_layers": 12}
_TEXT_DEFAULTS: dict[str, Any] = _TRANSFORMER | {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
_VISION_DEFAULTS: dict[str, Any] = _TRANSFORMER | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
}
_PROJECTION = 512
_SIGLIP_PROCESSOR = {
    "do_center_crop": False,
    "resample": _RESAMPLE["bicubic"],
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
_METACLIP = "metaclip_2"  # CLIPModel that always pools at its end token's id
_ENCODERS = {"chinese_clip": read_bert_cfg, "altclip": read_xlm_roberta_cfg}  # for text_cfg
_SIGLIPS = ("siglip", "siglip2")
_NOT_READ = {
    "jina_clip": "its towers are Python files in the repository, which are never run",
}


def transformer_config(
    *, width: int, neurons: int, layers: int, heads: int, eps: float
) -> dict[str, Any]:
    """Return the sizes of one transformer under transformers' names."""
    return {
        "hidden_size": width,
        "intermediate_size": neurons,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "layer_norm_eps": eps,
    }


def clip_config(
    clip: LoadedClip, vision: dict[str, Any], text: dict[str, Any], special: SpecialTokens
) -> dict[str, Any]:
    """Return the ``config.json`` of a CLIP.

    ``vision`` is a ``transformer_config`` plus ``patch_size``; ``text`` is one plus ``vocab_size``
    and ``max_position_embeddings``.
    """
    dim = clip.embedding_dim
    quick = clip.config["model_cfg"].get("quick_gelu")
    shared = {"hidden_act": "quick_gelu" if quick else "gelu", "projection_dim": dim}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": dim,
        "logit_scale_init_value": float(clip.model.get_parameter("logit_scale").detach().item()),
        "text_config": {
            "model_type": "clip_text_model",
            **text,
            **shared,
            "bos_token_id": special.start,
            "eos_token_id": special.end,
            "pad_token_id": special.end,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            **vision,
            **shared,
            "image_size": clip.image_size,
            "num_channels": 3,
        },
    }


def write_preprocessor_config(clip: LoadedClip, folder: Path) -> None:
    """Write ``preprocessor_config.json`` in CLIPImageProcessor form.

    Raises ModelError for an interpolation without a Pillow number.
    """
    from tinyclip_edge.runtime.preprocess import Preprocess

    preprocess = Preprocess.from_config(clip.config["preprocess_cfg"])
    if preprocess.interpolation not in _RESAMPLE:
        raise ModelError(
            f"{clip.name}: {PREPROCESSOR} cannot have interpolation {preprocess.interpolation!r}, "
            f"only {' or '.join(_RESAMPLE)}"
        )
    pixels = {"height": preprocess.height, "width": preprocess.width}
    squash = preprocess.resize_mode == "squash"
    config: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "feature_extractor_type": "CLIPFeatureExtractor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": pixels if squash else {"shortest_edge": min(preprocess.height, preprocess.width)},
        "resample": _RESAMPLE[preprocess.interpolation],
        "do_center_crop": not squash,
        "crop_size": pixels,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    if preprocess.resize_mode == "longest":
        config |= {"resize_mode": "longest", "fill_color": preprocess.fill_color}
    write_json(folder / PREPROCESSOR, config)


def read_model_cfg(path: Path) -> dict[str, Any]:
    """Return open_clip's model_cfg of a ``config.json``. Raises ModelError."""
    config = read_json(path)
    kind = str(config.get("model_type"))
    if kind in _SIGLIPS:
        return read_siglip_cfg(config, path)
    if kind in _ENCODERS:
        return _encoder_cfg(config, kind, path)
    if kind not in ("clip", _METACLIP):
        cause = f": {_NOT_READ[kind]}" if kind in _NOT_READ else ""
        raise ModelError(
            f"{path} describes a '{kind}' model{cause}; of the Hugging Face models AltCLIPModel, "
            "CLIPModel, ChineseCLIPModel, MetaClip2Model, SiglipModel and Siglip2Model can be "
            "opened"
        )
    text = read_tower(config, "text", _TEXT_DEFAULTS, path)
    vision = read_tower(config, "vision", _VISION_DEFAULTS, path)
    activations = {str(tower["hidden_act"]) for tower in (text, vision)}
    if len(activations) > 1 or not activations <= {"gelu", "quick_gelu"}:
        listing = ", ".join(sorted(activations))
        raise ModelError(f"{path}: hidden_act must be gelu or quick_gelu in both towers: {listing}")
    return {
        "embed_dim": read_count(config, "projection_dim", path, _PROJECTION),
        "quick_gelu": activations == {"quick_gelu"},
        "vision_cfg": _vision_cfg(vision, path),
        "text_cfg": {
            "context_length": read_count(text, "max_position_embeddings", path),
            "vocab_size": read_count(text, "vocab_size", path),
            "heads": read_count(text, "num_attention_heads", path),
            **read_sizes(text, path),
            **_pooling(text, path, by_id=kind == _METACLIP),
        },
    }


def _encoder_cfg(config: Mapping[str, Any], kind: str, path: Path) -> dict[str, Any]:
    vision = read_tower(config, "vision", _VISION_DEFAULTS, path)
    if vision["hidden_act"] not in ("gelu", "quick_gelu"):
        raise ModelError(f"{path}: vision_config.hidden_act must be gelu or quick_gelu")
    return {
        "embed_dim": read_count(
            config, "projection_dim", path, 768 if kind == "altclip" else _PROJECTION
        ),
        "quick_gelu": vision["hidden_act"] == "quick_gelu",
        "vision_cfg": _vision_cfg(vision, path),
        "text_cfg": _ENCODERS[kind](config, path),
    }


def _vision_cfg(vision: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if vision["num_channels"] != 3:
        raise ModelError(f"{path}: num_channels is {vision['num_channels']}, only 3 can be opened")
    return {
        "image_size": read_count(vision, "image_size", path),
        "patch_size": read_count(vision, "patch_size", path),
        "head_width": read_head_width(vision, path),
        **read_sizes(vision, path),
    }


def read_preprocess_cfg(folder: Path, image_size: int) -> dict[str, Any] | None:
    """Return open_clip's preprocess_cfg of a folder; None, with a warning, where it has none.

    It is read from ``preprocessor_config.json``, else from the ``image_processor`` of
    ``processor_config.json``. Raises ModelError for steps that open_clip's transform does not have.
    """
    from tinyclip_edge.runtime.preprocess import Preprocess

    path, config = _image_processor(folder, image_size)
    if config is None:
        warnings.warn(
            f"{folder} has no {PREPROCESSOR} and no {PROCESSOR} with an {_NESTED}: CLIP's own "
            "mean, std and bicubic resizing are used; add the model's file if it has others",
            TinyClipWarning,
            stacklevel=2,
        )
        return None
    for key in ("do_resize", "do_rescale", "do_normalize"):
        if config.get(key, True) is not True:
            raise ModelError(
                f"{path}: {key} is off, which open_clip's preprocessing does not support"
            )
    factor = config.get("rescale_factor", 1 / 255)
    if not isinstance(factor, float) or abs(factor - 1 / 255) > 1e-6:
        raise ModelError(f"{path}: rescale_factor must be 1/255")
    try:
        preprocess = Preprocess.from_config(config)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    size = config["size"]
    edge = size.get("shortest_edge", image_size) if isinstance(size, dict) else size
    if [edge, preprocess.height, preprocess.width] != [image_size] * 3:
        raise ModelError(
            f"{path} resizes to {edge} and crops to {preprocess.height}x{preprocess.width} pixels; "
            f"the model takes {image_size}, and open_clip resizes to the size that it crops"
        )
    return {
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "resize_mode": preprocess.resize_mode,
        "fill_color": preprocess.fill_color,
    }


def _image_processor(folder: Path, image_size: int) -> tuple[Path, dict[str, Any] | None]:
    """Return the image processor's file and its settings, with the defaults of its kind."""
    path = folder / PREPROCESSOR
    if path.is_file():
        config: Any = read_json(path)
    else:
        path = folder / PROCESSOR
        config = read_json(path).get(_NESTED) if path.is_file() else None
    if config is not None and not isinstance(config, dict):
        raise ModelError(f"{path}: {_NESTED} must be a table")
    kind = "" if config is None else str(config.get("image_processor_type", ""))
    if config is None or not kind.startswith("Siglip"):
        return path, config
    usual = dict(_SIGLIP_PROCESSOR)
    if kind.startswith("Siglip2"):  # takes any shape; here a square
        square = {"height": image_size, "width": image_size}
        usual |= {"resample": _RESAMPLE["bilinear"], "size": square}
    return path, usual | {key: value for key, value in config.items() if value is not None}


def _pooling(text: Mapping[str, Any], path: Path, *, by_id: bool) -> dict[str, Any]:
    """Return the pooling: at the highest id, or at the end token's id (always if ``by_id``)."""
    end = text["eos_token_id"]
    if not isinstance(end, int):
        raise ModelError(f"{path}: eos_token_id is {end!r}, not a number")
    highest = not by_id and end in (_LEGACY_EOS, text["vocab_size"] - 1)
    return {} if highest else {"pool_type": "eos", "eos_id": end}
