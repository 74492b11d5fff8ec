"""Transformers' text encoders in any size, built from a configuration of our own.

open_clip's configuration only names such an encoder; its sizes come from the hub. Here
``hf_config`` of text_cfg, a table of transformers' own keys, describes it, and ``width``,
``layers``, ``heads``, ``mlp_ratio`` and ``vocab_size``, which open_clip ignores next to
``hf_model_name``, set its sizes. Students of such towers are built this way; their folders use
file names of our own and do not need the hub.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from tinyclip_edge.errors import MissingExtraError, ModelError, did_you_mean
from tinyclip_edge.limits import SIZE_COUNT, is_count
from tinyclip_edge.models.encoder_kinds import ENCODER_KINDS, M2M_100, NUMBER, PADDING, EncoderKind
from tinyclip_edge.models.library import open_clip
from tinyclip_edge.models.meta_device import on_meta_device

HF_CONFIG = "hf_config"  # key of text_cfg
NORM_LINEAR = "norm_linear"  # an hf_proj_type of ours: a norm, then a layer with a bias (AltCLIP)
TEXT_SIZES = ("width", "layers", "heads", "mlp_ratio")

HFText: TypeAlias = Any  # open_clip's HFTextEncoder or a part of it, read by attributes
Table: TypeAlias = "dict[str, Any]"


_SMALL = 1 << 16  # limit of settings and positions; M2M-100 has 1024
_WIDEST_ATTENTION = 16  # times the width, as in the largest T5


def has_own_text(model_cfg: Mapping[str, Any]) -> bool:
    """Whether a model_cfg itself describes its transformers text encoder."""
    return HF_CONFIG in model_cfg["text_cfg"]


def is_hf_text(text: HFText) -> bool:
    """Whether a text tower is open_clip's adapter around one of these transformers encoders."""
    is_adapter = isinstance(text, open_clip.hf_model.HFTextEncoder)
    return is_adapter and text.config.model_type in ENCODER_KINDS


def check_text_config(text_cfg: Mapping[str, Any], source: str) -> None:
    """Refuse an ``hf_config`` that is not a plain table of one of the known types of encoder."""
    table, label = text_cfg.get(HF_CONFIG), f"{source}: text_cfg.{HF_CONFIG}"
    if table is None:
        return
    if not isinstance(table, dict):
        raise ModelError(f"{label} must be a table")
    if "hf_model_name" not in text_cfg:
        raise ModelError(f"{label} needs text_cfg.hf_model_name, the encoder that it describes")
    model_type = table.get("model_type")
    if not isinstance(model_type, str) or model_type not in ENCODER_KINDS:
        raise ModelError(
            f"{label}.model_type {model_type!r} is not one of {', '.join(ENCODER_KINDS)}"
        )
    kind = ENCODER_KINDS[model_type]
    _check_values(table, kind, label)
    try:
        _check_fit(resolved(text_cfg), text_cfg.get("context_length", 77), kind, label)
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error


def _check_values(table: Table, kind: EncoderKind, label: str) -> None:
    for key, value in table.items():
        number = isinstance(value, int) and not isinstance(value, bool)
        if key in kind.counts:
            if not is_count(value) or value > SIZE_COUNT:
                raise ModelError(f"{label}.{key} {value!r} must be a whole number above 0")
        elif key in kind.settings:
            limit = SIZE_COUNT if key in PADDING else _SMALL
            fits = isinstance(value, kind.settings[key]) and not isinstance(value, bool)
            if not fits or (number and not 0 <= value <= limit):
                raise ModelError(f"{label}.{key} cannot be {value!r}")
        elif key != "model_type":
            names = {*kind.counts, *kind.settings}
            raise ModelError(f"{label} has an unknown key '{key}'{did_you_mean(key, names)}")
    missing = [key for key in (*kind.counts, *PADDING) if key not in table]
    if missing:
        raise ModelError(f"{label} has no {', '.join(missing)}")


def _check_fit(table: Table, context: object, kind: EncoderKind, label: str) -> None:
    if table["pad_token_id"] >= table["vocab_size"]:
        raise ModelError(
            f"text_cfg.{HF_CONFIG}.pad_token_id {table['pad_token_id']} must be below vocab_size "
            f"{table['vocab_size']}"
        )
    width, heads = table[kind.width], table[kind.heads]
    if not kind.head_width and width % heads:
        raise ModelError(f"text_cfg.width {width} does not split into {heads} heads")
    if kind.head_width and heads * table[kind.head_width] > _WIDEST_ATTENTION * width:
        raise ModelError(
            f"text_cfg: {heads} heads of {table[kind.head_width]} are too many for a width of "
            f"{width}"
        )
    buckets = table.get("relative_attention_num_buckets", 32)
    if table.get("type_vocab_size", 1) < 1 or buckets < 4:
        raise ModelError(f"text_cfg.{HF_CONFIG} has too few token types or relative positions")
    if table.get("relative_attention_max_distance", 128) <= buckets // 4:
        raise ModelError(
            f"text_cfg.{HF_CONFIG}.relative_attention_max_distance must be more than {buckets // 4}"
        )
    rows = table.get(kind.positions)
    needed = _positions(kind, table, context) if isinstance(context, int) else 0
    if rows is not None and not needed <= rows <= _SMALL:
        raise ModelError(
            f"text_cfg.{HF_CONFIG}.{kind.positions} is {rows}; it must be from {needed}, for a "
            f"context_length of {context}, to {_SMALL}"
        )


def _positions(kind: EncoderKind, table: Mapping[str, Any], context: int) -> int:
    """Return how many configured positions a context length needs."""
    return context + (table["pad_token_id"] + 1 if kind.padded_positions else 0)


def sizes_of(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes in an ``hf_config`` under open_clip's names."""
    kind = ENCODER_KINDS[table["model_type"]]
    width = table[kind.width]
    return {
        "width": width,
        "layers": table[kind.layers],
        "heads": table[kind.heads],
        "mlp_ratio": table[kind.neurons] / width,
        "vocab_size": table["vocab_size"],
    }


def resolved(text_cfg: Mapping[str, Any]) -> Table:
    """Return the ``hf_config`` of a text_cfg, completed with its sizes.

    Raises ModelError for sizes that are not numbers above 0; all but the ratio must be whole.
    """
    table: Table = dict(text_cfg[HF_CONFIG])
    kind, usual = ENCODER_KINDS[table["model_type"]], sizes_of(table)
    sizes = {key: text_cfg.get(key, value) for key, value in usual.items()}
    for key in ("width", "layers", "heads", "vocab_size"):
        value = sizes[key]
        if not is_count(value) or value > SIZE_COUNT:
            raise ModelError(f"text_cfg.{key} {value!r} must be a whole number above 0")
    ratio = sizes["mlp_ratio"]
    if isinstance(ratio, bool) or not isinstance(ratio, NUMBER) or not 0 < ratio <= SIZE_COUNT:
        raise ModelError(f"text_cfg.mlp_ratio {ratio!r} must be a number above 0")
    table[kind.width], table[kind.layers] = sizes["width"], sizes["layers"]
    table[kind.heads], table["vocab_size"] = sizes["heads"], sizes["vocab_size"]
    table[kind.neurons] = max(1, round(sizes["width"] * sizes["mlp_ratio"]))
    return table


def student_text(teacher: Mapping[str, Any], overrides: Mapping[str, Any]) -> Table:
    """Return the text_cfg of a student of a transformers encoder, including all sizes.

    ``teacher`` has an ``hf_config``. Heads are as wide as the teacher's unless ``overrides`` sets
    their number; positions are as many as the context length needs.
    """
    table = teacher[HF_CONFIG]
    usual = {**sizes_of(table), **{k: v for k, v in teacher.items() if k in TEXT_SIZES}}
    width = overrides.get("width")
    if isinstance(width, int) and "heads" not in overrides:
        usual["heads"] = max(1, width * usual["heads"] // usual["width"])
    text: Table = {**teacher, **usual, **overrides}
    table, kind = resolved(text), ENCODER_KINDS[table["model_type"]]
    context = text.get("context_length", 77)
    if kind.positions and isinstance(context, int):
        table[kind.positions] = min(table[kind.positions], _positions(kind, table, context))
    return {**text, HF_CONFIG: table}


def read_text_config(text: HFText) -> Table:
    """Return the ``hf_config`` that describes an open_clip tower."""
    config = text.config.to_dict()
    kind = ENCODER_KINDS[config["model_type"]]
    table = {key: config[key] for key in (*kind.counts, *kind.settings) if key in config}
    if kind is M2M_100:
        table["embed_scale"] = float(text.transformer.embed_tokens.embed_scale)
    return {"model_type": config["model_type"], **table}


def head_width_of(text: HFText) -> int:
    """Return the width of the attention heads of a tower."""
    config = text.config.to_dict()
    kind = ENCODER_KINDS[config["model_type"]]
    own = kind.head_width
    return int(config[own] if own else config[kind.width] // config[kind.heads])


def fixed_settings(text: HFText) -> dict[str, object]:
    """Return the settings in which teacher and student must agree, by name."""
    table = read_text_config(text)
    drawn = {"initializer_range", "initializer_factor", "init_std", "type_vocab_size"}
    sizes = {*ENCODER_KINDS[table["model_type"]].counts, *drawn}
    settings: dict[str, object] = {k: v for k, v in table.items() if k not in sizes}
    return {**settings, "pooler": type(text.pooler).__name__}


def build_text(text_cfg: Mapping[str, Any], embed_dim: int) -> nn.Module:
    """Return open_clip's HFTextEncoder for this configuration, with random weights.

    No file is read. Raises ModelError for sizes that do not fit, MissingExtraError without
    transformers.
    """
    options = open_clip.CLIPTextCfg(**{k: v for k, v in text_cfg.items() if k != HF_CONFIG})
    table = resolved(text_cfg)
    kind, pooler = ENCODER_KINDS[table["model_type"]], options.hf_pooler_type
    own_projection = options.hf_proj_type == NORM_LINEAR
    projected = own_projection or options.hf_proj_type in ("linear", "mlp")
    if not projected and table[kind.width] != embed_dim:
        raise ModelError(
            f"text_cfg.hf_proj_type {options.hf_proj_type!r} leaves {table[kind.width]} channels, "
            f"the embedding has {embed_dim}; set linear or mlp"
        )
    if pooler == "max_pooler":
        raise ModelError("text_cfg.hf_pooler_type max_pooler cannot be run by open_clip")
    config = _configuration(table, kind)
    # On meta first: its encoder, which would come with a decoder, is replaced below.
    with on_meta_device():
        text: HFText = open_clip.hf_model.HFTextEncoder(
            options.hf_model_name,
            embed_dim,
            config=config,
            pooler_type=pooler,
            proj_type="linear" if own_projection else options.hf_proj_type,
        )
        if own_projection:
            text.proj = _norm_linear(table[kind.width], embed_dim, table.get("layer_norm_eps"))
    pools = type(text.pooler) is open_clip.hf_model.ClsPooler
    text.transformer = _encoder(config, table, with_pooler=pools)
    text.proj.to_empty(device=torch.get_default_device())
    for layer in text.proj.modules():
        if isinstance(layer, (nn.Linear, nn.LayerNorm)):
            layer.reset_parameters()
    built: nn.Module = text
    return built


def _norm_linear(width: int, embed_dim: int, eps: float | None) -> nn.Module:
    norm = nn.LayerNorm(width) if eps is None else nn.LayerNorm(width, eps=eps)
    return nn.Sequential(OrderedDict(norm=norm, linear=nn.Linear(width, embed_dim)))


def _configuration(table: Table, kind: EncoderKind) -> Any:  # noqa: ANN401 - of transformers
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError(
            f"a text encoder of type {table['model_type']} needs transformers: "
            "pip install 'tinyclip-edge[huggingface]'"
        ) from error

    classes = {
        "bert": transformers.BertConfig,
        "roberta": transformers.RobertaConfig,
        "xlm-roberta": transformers.XLMRobertaConfig,
        "mt5": transformers.MT5Config,
        "m2m_100": transformers.M2M100Config,
    }
    ours = ("model_type", "embed_scale")
    return classes[table["model_type"]](
        **{key: value for key, value in table.items() if key not in ours}, **kind.fixed
    )


def _encoder(config: Any, table: Table, *, with_pooler: bool) -> nn.Module:  # noqa: ANN401
    import transformers
    from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

    encoder: HFText
    if table["model_type"] == "mt5":
        encoder = transformers.MT5EncoderModel(config).encoder
    elif table["model_type"] == "m2m_100":
        encoder = M2M100Encoder(config)
        encoder.embed_tokens.embed_scale = table.get("embed_scale", math.sqrt(config.d_model))
        _store_positions(encoder)
    else:
        encoder = transformers.AutoModel.from_config(config, add_pooling_layer=with_pooler)
    built: nn.Module = encoder
    return built


def describe_itself(text: HFText, text_cfg: dict[str, Any]) -> None:
    """Add to a text_cfg, and to the weights, whatever its encoder would need the hub for."""
    if is_hf_text(text) and HF_CONFIG not in text_cfg:
        text_cfg[HF_CONFIG] = read_text_config(text)
        if ENCODER_KINDS[text.config.model_type] is M2M_100:
            _store_positions(text.transformer)


def _store_positions(encoder: HFText) -> None:
    places = encoder.embed_positions
    places.weights = nn.Buffer(places.weights, persistent=True)
