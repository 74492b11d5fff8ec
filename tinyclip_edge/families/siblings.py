"""Configurations of small siblings of today's model families: their architecture, shrunk."""

from __future__ import annotations

from typing import Any

from tinyclip_edge.families.tokenizers import vocabulary

CLIP_TEXT: dict[str, Any] = {
    "context_length": 8,
    "vocab_size": 49408,
    "width": 48,
    "heads": 3,
    "layers": 4,
}
SIGLIP_TEXT: dict[str, Any] = {
    **CLIP_TEXT,
    "hf_tokenizer_name": "timm/ViT-B-16-SigLIP2",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "vocab_size": vocabulary("Gemma"),
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
    "act_kwargs": {"approximate": "tanh"},
}


def timm_tower(
    name: str,
    *,
    size: int = 32,
    width: int = 64,
    layers: int = 4,
    head_width: int = 16,
    **options: object,
) -> dict[str, Any]:
    """Return an image tower of timm with these sizes."""
    return {
        "image_size": size,
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "width": width,
        "layers": layers,
        "head_width": head_width,
        **options,
    }


def fastvit_tower(
    name: str, *, width: int, layers: tuple[int, ...], size: int = 64
) -> dict[str, Any]:
    """Return a FastViT of timm whose first stage has ``width`` channels."""
    return {
        "image_size": size,
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": None,
        "width": width,
        "layers": list(layers),
    }


def hf_tower(
    name: str,
    tokenizer: str,
    *,
    pool: str = "mean_pooler",
    proj: str = "linear",
    context: int = 12,
    **hf_config: object,
) -> dict[str, Any]:
    """Return a text tower of transformers: four layers, 48 wide, three heads, 96 neurons."""
    return {
        "hf_model_name": name,
        "hf_tokenizer_name": name,
        "hf_pooler_type": pool,
        "hf_proj_type": proj,
        "context_length": context,
        "hf_config": {"vocab_size": vocabulary(tokenizer), **hf_config},
    }


SMALL_VIT: dict[str, Any] = {
    "image_size": 32, "patch_size": 16, "width": 64, "layers": 4, "head_width": 16,
}  # fmt: skip
ROBERTA: dict[str, Any] = {
    "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 96,
    "max_position_embeddings": 14, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
    "hidden_act": "gelu", "pad_token_id": 1,
}  # fmt: skip
MT5: dict[str, Any] = {
    "d_model": 48, "num_layers": 4, "num_heads": 3, "d_kv": 12, "d_ff": 96,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
    "feed_forward_proj": "gated-gelu", "layer_norm_epsilon": 1e-6, "pad_token_id": 0,
}  # fmt: skip
M2M_100: dict[str, Any] = {
    "d_model": 48, "encoder_layers": 4, "encoder_attention_heads": 3, "encoder_ffn_dim": 96,
    "max_position_embeddings": 12, "activation_function": "relu", "pad_token_id": 1,
}  # fmt: skip
# Tokenizers of the families that do not use CLIP's.
TOKENIZERS = {
    "XLM-R": "XLM-R", "RoBERTa": "RoBERTa", "mT5": "mT5", "NLLB": "NLLB",
    "AltCLIP": "XLM-R", "ChineseCLIP": "BERT", "SigLIP 2": "Gemma",
    "MetaCLIP 2 worldwide": "mT5", "MetaCLIP 2 worldwide, XLM-V": "XLM-R",
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "ViT": {"embed_dim": 48, "vision_cfg": SMALL_VIT, "text_cfg": CLIP_TEXT},
    "SigLIP 2": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": timm_tower(
            "vit_base_patch16_siglip_224", timm_pool="map", timm_proj="none"
        ),
        "text_cfg": SIGLIP_TEXT,
    },
    "PE-Core": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": timm_tower(
            "vit_pe_core_base_patch16_224", width=192, head_width=32, timm_pool="map",
            timm_proj=None,
        ),
        "text_cfg": CLIP_TEXT,
    },
    "EVA02": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": timm_tower(
            "eva02_base_patch16_clip_224", timm_pool="token", timm_proj=None
        ),
        "text_cfg": CLIP_TEXT,
    },
    "CLIPA": {
        "embed_dim": 48,
        "vision_cfg": {
            "image_size": 32, "patch_size": 16, "width": 64, "layers": 4, "head_width": 16,
            "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True,
        },
        "text_cfg": {**CLIP_TEXT, "pool_type": "last", "no_causal_mask": True},
    },
    "MetaCLIP 2 worldwide": {
        "embed_dim": 40,
        "vision_cfg": SMALL_VIT,
        "text_cfg": {
            **CLIP_TEXT, "hf_tokenizer_name": "google/mt5-base", "pool_type": "eos", "eos_id": 1,
            "tokenizer_kwargs": {"clean": "canonicalize"}, "vocab_size": vocabulary("mT5"),
        },
    },
    "MetaCLIP 2 worldwide, XLM-V": {
        "embed_dim": 40,
        "vision_cfg": SMALL_VIT,
        "text_cfg": {
            **CLIP_TEXT, "hf_tokenizer_name": "facebook/xlm-v-base", "pool_type": "eos",
            "eos_id": 2, "vocab_size": vocabulary("XLM-R"),
        },
    },
}  # fmt: skip
# Families whose text towers are encoders of transformers.
ENCODERS: dict[str, dict[str, Any]] = {
    "XLM-R": {
        "embed_dim": 40,
        "vision_cfg": SMALL_VIT,
        "text_cfg": hf_tower(
            "xlm-roberta-base", "XLM-R", proj="mlp", model_type="xlm-roberta", **ROBERTA
        ),
    },
    "RoBERTa": {
        "embed_dim": 40,
        "quick_gelu": True,
        "vision_cfg": SMALL_VIT,
        "text_cfg": hf_tower(
            "roberta-base", "RoBERTa", pool="cls_pooler", model_type="roberta", **ROBERTA
        ),
    },
    "mT5": {
        "embed_dim": 40,
        "vision_cfg": SMALL_VIT,
        "text_cfg": hf_tower("google/mt5-base", "mT5", proj="mlp", model_type="mt5", **MT5),
    },
    "NLLB": {
        "embed_dim": 40,
        "vision_cfg": SMALL_VIT,
        "text_cfg": hf_tower(
            "facebook/nllb-200-distilled-600M", "NLLB", pool="cls_pooler", model_type="m2m_100",
            **M2M_100,
        ),
    },
    "AltCLIP": {
        "embed_dim": 40,
        "vision_cfg": SMALL_VIT,
        "text_cfg": hf_tower(
            "xlm-roberta-large", "XLM-R", pool="cls_last_hidden_state_pooler", proj="norm_linear",
            model_type="xlm-roberta", **ROBERTA,
        ),
    },
    "ChineseCLIP": {
        "embed_dim": 40,
        "vision_cfg": SMALL_VIT,
        "text_cfg": hf_tower(
            "bert-base-chinese", "BERT", pool="cls_last_hidden_state_pooler", model_type="bert",
            **{**ROBERTA, "max_position_embeddings": 12, "type_vocab_size": 2, "pad_token_id": 0},
        ),
    },
}  # fmt: skip
# Families whose image towers begin with, or consist of, convolutions.
CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "MobileCLIP 2": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": fastvit_tower("fastvit_mci0", width=16, layers=(2, 2, 4, 2)),
        "text_cfg": {**CLIP_TEXT, "no_causal_mask": True},
    },
    "MobileCLIP 2, five stages": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": fastvit_tower(
            "fastvit_mci3", width=8, layers=(1, 2, 4, 2, 2), size=128
        ),
        "text_cfg": {**CLIP_TEXT, "no_causal_mask": True},
    },
    "MobileCLIP-B": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": timm_tower(
            "vit_base_mci_224", width=768, head_width=64, mlp_ratio=0.5, timm_pool="token",
            timm_proj=None,
        ),
        "text_cfg": CLIP_TEXT,
    },
    "ViTamin": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": timm_tower("vitamin_small_224", timm_pool="", timm_proj="linear"),
        "text_cfg": CLIP_TEXT,
    },
}  # fmt: skip
EVERY: dict[str, dict[str, Any]] = {**FAMILIES, **ENCODERS, **CONVOLUTIONS}
# Further families; tests make students of many shapes only from those of EVERY.
OTHERS: dict[str, dict[str, Any]] = {
    "ResNet": {
        "embed_dim": 48,
        "vision_cfg": {"image_size": 64, "layers": [2, 2, 2, 2], "width": 32, "patch_size": None},
        "text_cfg": CLIP_TEXT,
    },
    "CoCa": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": {**SMALL_VIT, "attentional_pool": True, "attn_pooler_heads": 3,
                       "attn_pooler_queries": 6, "output_tokens": True},
        "text_cfg": {**CLIP_TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 8, "vocab_size": 49408, "width": 48, "heads": 3,
                           "layers": 2, "attn_pooler_heads": 3},
    },
    "Long-CLIP": {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": SMALL_VIT,
        "text_cfg": {**CLIP_TEXT, "context_length": 248},
    },
}  # fmt: skip
SIBLINGS: dict[str, dict[str, Any]] = {**EVERY, **OTHERS}
