"""open_clip local-dir folders: config, weights and tokenizer side by side, read and written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.build import check_model_cfg
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.tokenization import TOKENIZER
from tinyclip_edge.models.weights import fill, read_weights

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
# In the order in which open_clip itself prefers them.
WEIGHT_NAMES = (
    WEIGHTS,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
)
TOKENIZER_COMPANIONS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check ``open_clip_config.json``; ModelError names the folder and what is missing."""
    path = folder / CONFIG
    if not folder.is_dir():
        raise ModelError(f"no model folder {folder}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is no open_clip folder: it has no {CONFIG}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict) or "model_cfg" not in config:
        raise ModelError(f"{path} has no 'model_cfg'")
    check_model_cfg(config["model_cfg"], str(path))
    return config


def load_folder(folder: Path, name: str, device: str | torch.device) -> LoadedClip:
    """Load an open_clip local-dir folder, strictly."""
    config = read_config(folder)
    weights = next((folder / n for n in WEIGHT_NAMES if (folder / n).is_file()), None)
    if weights is None:
        raise ModelError(f"{folder} has no weights: no {WEIGHTS}")
    tokenizer_file = folder / TOKENIZER if (folder / TOKENIZER).is_file() else None
    # Building draws random numbers that are thrown away: they must not move the caller's seed.
    with torch.random.fork_rng(devices=[]):
        clip = assemble(
            config["model_cfg"],
            config.get("preprocess_cfg"),
            name=name,
            source=str(folder / CONFIG),
            tokenizer_file=tokenizer_file,
        )
    fill(clip.model, read_weights(weights), str(weights))
    clip.model.to(device)
    clip.weights_file = weights
    return clip


def save_local_dir(folder: Path, clip: LoadedClip, *, half: bool = False) -> None:
    """Write config, weights and tokenizer files as an open_clip local-dir folder.

    Written aside, then renamed over what was there. ``half`` stores float16 (scalars stay
    float32). Raises ModelError when a weight does not fit into that, or the disk refuses.
    """
    folder = Path(folder)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        _write(aside, clip, half=half)
        _replace(aside, folder)
    except (OSError, SafetensorError) as error:
        # safetensors wraps a full disk in an error of its own.
        cause = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ModelError(f"cannot write {folder}: {cause}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(aside: Path, clip: LoadedClip, *, half: bool) -> None:
    text = json.dumps(clip.config, indent=2, ensure_ascii=False) + "\n"
    (aside / CONFIG).write_text(text, encoding="utf-8")
    state = {key: _stored(key, t, half=half) for key, t in clip.model.state_dict().items()}
    safetensors.torch.save_file(state, aside / WEIGHTS, metadata={"format": "pt"})
    if clip.tokenizer_file is not None:
        beside = clip.tokenizer_file.parent
        shutil.copyfile(clip.tokenizer_file, aside / TOKENIZER)
        for name in TOKENIZER_COMPANIONS:
            if (beside / name).is_file():
                shutil.copyfile(beside / name, aside / name)


def _stored(key: str, tensor: Tensor, *, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous().clone()
    if not half or tensor.ndim == 0 or not tensor.is_floating_point():
        return tensor
    small = tensor.half()
    if tensor.isfinite().all() and not small.isfinite().all():
        raise ModelError(f"{key} does not fit into float16 (largest {tensor.abs().max():.3g})")
    return small


def _replace(aside: Path, folder: Path) -> None:
    """Move a finished folder into place; an older one is removed only after that."""
    if not folder.exists():
        aside.rename(folder)
        return
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old)
