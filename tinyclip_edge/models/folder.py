"""Model folders: config, weights and tokenizer side by side, read and written.

An ordinary CLIP is an open_clip local-dir; one whose layers differ uses file names of our own.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from tinyclip_edge.aside import written_aside
from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.build import check_model_cfg
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.json_file import read_json, write_json
from tinyclip_edge.models.pruned import assemble_weights
from tinyclip_edge.models.pruned_units import UNITS
from tinyclip_edge.models.runs import CONFIG, PRUNED_CONFIG, model_config_file
from tinyclip_edge.models.sized_text import has_own_text
from tinyclip_edge.models.sized_timm import is_sized
from tinyclip_edge.models.tokenization import (
    TOKENIZER,
    TOKENIZER_COMPANIONS,
    TOKENIZER_CONFIG,
    read_tokenizer_config,
    tokenizer_beside,
)
from tinyclip_edge.models.tokenizer_files import write_tokenizer
from tinyclip_edge.models.weights import read_weights

WEIGHTS = "open_clip_model.safetensors"
PRUNED_WEIGHTS = "tinyclip_edge_model.safetensors"
# In the order in which open_clip itself prefers them.
WEIGHT_NAMES = (
    WEIGHTS,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
)


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check a folder's config; ModelError names the folder and what is missing."""
    path = model_config_file(folder)
    own_name = path.name == PRUNED_CONFIG
    config = read_json(path)
    if "model_cfg" not in config:
        raise ModelError(f"{path} has no 'model_cfg'")
    check_model_cfg(config["model_cfg"], str(path))
    if own_name != is_own_form(config):
        raise ModelError(
            f"{path} has no '{UNITS}' and no tower of timm or transformers in sizes of its own"
            if own_name
            else f"{path} has layers of unequal sizes, or a tower of timm or transformers in sizes "
            f"of its own; name it {PRUNED_CONFIG}"
        )
    return config


def is_own_form(config: Mapping[str, Any]) -> bool:
    """Whether open_clip cannot read this form of config, which then has our own file names."""
    model_cfg = config["model_cfg"]
    return UNITS in config or is_sized(model_cfg) or has_own_text(model_cfg)


def load_folder(folder: Path, name: str, device: str | torch.device) -> LoadedClip:
    """Load the folder of an ordinary or a pruned CLIP, strictly. Raises ModelError."""
    config = read_config(folder)
    pruned = is_own_form(config)
    names = (PRUNED_WEIGHTS,) if pruned else WEIGHT_NAMES
    weights = next((folder / n for n in names if (folder / n).is_file()), None)
    if weights is None:
        raise ModelError(f"{folder} has no weights: no {names[0]}")
    clip = assemble_weights(
        config,
        read_weights(weights),
        name=name,
        source=str(folder / (PRUNED_CONFIG if pruned else CONFIG)),
        weights_file=weights,
        tokenizer_file=tokenizer_beside(folder),
    )
    clip.model.to(device)
    return clip


def save_local_dir(folder: Path, clip: LoadedClip, *, half: bool = False) -> None:
    """Write config, weights and tokenizer files: an open_clip local-dir if the layers allow.

    A pruned CLIP whose layers differ gets config and weight files with names of our own. The folder
    is written aside, then renamed over the old one. ``half`` stores float16 (scalars stay float32).
    Raises ModelError when a weight does not fit into float16, or writing fails.
    """
    folder = Path(folder)
    try:
        with written_aside(folder) as aside:
            _write(aside, clip, half=half)
    except (OSError, SafetensorError) as error:
        # safetensors wraps a full disk in an error of its own.
        cause = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ModelError(f"cannot write {folder}: {cause}") from error


def _write(aside: Path, clip: LoadedClip, *, half: bool) -> None:
    pruned = is_own_form(clip.config)
    write_json(aside / (PRUNED_CONFIG if pruned else CONFIG), clip.config)
    state = {key: _storage_copy(key, t, half=half) for key, t in clip.model.state_dict().items()}
    weights = aside / (PRUNED_WEIGHTS if pruned else WEIGHTS)
    safetensors.torch.save_file(state, weights, metadata={"format": "pt"})
    if clip.tokenizer_file is not None:
        source_folder = clip.tokenizer_file.parent
        shutil.copyfile(clip.tokenizer_file, aside / TOKENIZER)
        for name in TOKENIZER_COMPANIONS:
            if name == TOKENIZER_CONFIG and (source_folder / name).is_file():
                write_json(aside / name, read_tokenizer_config(source_folder / name))
            elif (source_folder / name).is_file():
                shutil.copyfile(source_folder / name, aside / name)
    elif has_own_text(clip.config["model_cfg"]):
        write_tokenizer(clip, aside)  # otherwise the folder would need the hub


def _storage_copy(key: str, tensor: Tensor, *, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous().clone()
    if not half or tensor.ndim == 0 or not tensor.is_floating_point():
        return tensor
    small = tensor.half()
    if tensor.isfinite().all() and not small.isfinite().all():
        raise ModelError(f"{key} does not fit into float16 (largest {tensor.abs().max():.3g})")
    return small
