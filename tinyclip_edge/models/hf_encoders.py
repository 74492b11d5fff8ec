"""Text towers of Hugging Face's ChineseCLIPModel and AltCLIPModel: BERT and XLM-R.

The first token is projected; in AltCLIP after a norm and by two layers, merged into one here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyclip_edge.models.hf_fields import read_count, read_tower
from tinyclip_edge.models.sized_text import HF_CONFIG, NORM_LINEAR

# Context lengths of the published models.
_CHINESE_CONTEXT, _ALT_CONTEXT = 52, 77
# transformers' defaults for keys that a config.json omits.
_BERT: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
_XLM_R: dict[str, Any] = {
    "vocab_size": 250002,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}


def read_bert_cfg(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the text_cfg of a ChineseCLIPModel's ``config.json``. Raises ModelError."""
    text = read_tower(config, "text", _BERT, path)
    positions = read_count(text, "max_position_embeddings", path)
    return {
        "context_length": min(_CHINESE_CONTEXT, positions),
        "hf_model_name": "bert-base-chinese",
        "hf_proj_type": "linear",
        **_encoder(text, _BERT, "bert", path),
    }


def read_xlm_roberta_cfg(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the text_cfg of an AltCLIPModel's ``config.json``. Raises ModelError."""
    text = read_tower(config, "text", _XLM_R, path)
    # Positions count from the one after the padding token's.
    positions = read_count(text, "max_position_embeddings", path)
    positions -= read_count(text, "pad_token_id", path) + 1
    return {
        "context_length": max(1, min(_ALT_CONTEXT, positions)),
        "hf_model_name": "xlm-roberta-large",
        "hf_proj_type": NORM_LINEAR,
        **_encoder(text, _XLM_R, "xlm-roberta", path),
    }


def _encoder(
    text: Mapping[str, Any], keys: Mapping[str, Any], model_type: str, path: Path
) -> dict[str, Any]:
    return {
        "vocab_size": read_count(text, "vocab_size", path),
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        HF_CONFIG: {"model_type": model_type, **{key: text[key] for key in keys}},
    }
