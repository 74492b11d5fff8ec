"""Assemble the network, preprocessing and tokenizer of one config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from tinyclip_edge.models.build import (
    build_model,
    build_preprocess,
    check_model_cfg,
    complete_preprocess_cfg,
)
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.coca import two_towers
from tinyclip_edge.models.tokenization import make_tokenizer


def assemble(
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any] | None,
    *,
    name: str,
    source: str | None = None,
    network: nn.Module | None = None,
    tokenizer_file: Path | None = None,
) -> LoadedClip:
    """Return the CLIP of an open_clip config, with random weights unless a ``network`` is given.

    ``source`` names the config in errors; default ``name``. Raises ModelError.
    """
    source = source or name
    check_model_cfg(model_cfg, source)
    model_cfg = two_towers(model_cfg)
    table = complete_preprocess_cfg(preprocess_cfg, model_cfg, source)
    preprocess = build_preprocess(table, source)
    tokenizer = make_tokenizer(model_cfg, tokenizer_file, source)
    return LoadedClip(
        model=(build_model(model_cfg, source) if network is None else network).eval(),
        config={"model_cfg": model_cfg, "preprocess_cfg": table},
        preprocess=preprocess,
        tokenizer=tokenizer,
        name=name,
        tokenizer_file=tokenizer_file,
    )
