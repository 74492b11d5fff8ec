"""Text tower of a Hugging Face ChineseCLIPModel: BERT, whose first token is projected."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyclip_edge.models.hf_fields import read_count, read_tower
from tinyclip_edge.models.sized_text import HF_CONFIG

_CONTEXT = 52  # tokens of the published models' texts
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


def read_bert_cfg(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the text_cfg of a ``config.json``. Raises ModelError."""
    text = read_tower(config, "text", _BERT, path)
    return {
        "context_length": min(_CONTEXT, read_count(text, "max_position_embeddings", path)),
        "vocab_size": read_count(text, "vocab_size", path),
        "hf_model_name": "bert-base-chinese",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "hf_proj_type": "linear",
        HF_CONFIG: {"model_type": "bert", **{key: text[key] for key in _BERT}},
    }
