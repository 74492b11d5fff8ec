"""Load models by open_clip's names, or from the Hugging Face hub."""

from __future__ import annotations

import warnings
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import nn

from tinyclip_edge.errors import ModelError, TinyClipWarning, first_line
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.build import build_model
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.coca import is_coca, without_decoder
from tinyclip_edge.models.folder import WEIGHT_NAMES as OPEN_CLIP_WEIGHTS
from tinyclip_edge.models.folder import read_config
from tinyclip_edge.models.hf_config import CONFIG, PREPROCESSOR, PROCESSOR, read_model_cfg
from tinyclip_edge.models.huggingface import WEIGHT_NAMES, is_huggingface, load_huggingface
from tinyclip_edge.models.library import open_clip, quiet
from tinyclip_edge.models.names import LOCAL_DIR, check_tag, split_name
from tinyclip_edge.models.pruned import assemble_weights, expected_weights
from tinyclip_edge.models.published_preprocessing import published_preprocessing
from tinyclip_edge.models.runs import CONFIG as OPEN_CLIP_CONFIG
from tinyclip_edge.models.tokenization import (
    OPEN_CLIP_VOCABULARY,
    TOKENIZER,
    TOKENIZER_COMPANIONS,
    tokenizer_beside,
)
from tinyclip_edge.models.weights import fill, read_weights, refuse_larger, stored_shapes

# All files of a repository that describe its model, without the weights.
_FACTS = [OPEN_CLIP_CONFIG, CONFIG, PREPROCESSOR, PROCESSOR, TOKENIZER, *TOKENIZER_COMPANIONS]


def load_named(
    model: str, pretrained: str | None, device: str | torch.device, *, allow_random: bool
) -> LoadedClip:
    """Load ``NAME`` or ``NAME/TAG``; the tag may also be a weight file."""
    with quiet():
        name, tag = split_name(model, pretrained, frozenset(open_clip.list_models()))
        model_cfg = open_clip.get_model_config(name)
        tags = open_clip.list_pretrained_tags_by_model(name)
        pretrained_cfg = open_clip.get_pretrained_cfg(name, tag) if tag else None
    check_tag(name, tag, tags, allow_random=allow_random)
    if tag and pretrained_cfg:
        # The tag records the activation its weights were trained with; the name alone may not.
        model_cfg["quick_gelu"] = bool(
            pretrained_cfg.get("quick_gelu") or model_cfg.get("quick_gelu")
        )
        network = _download(name, tag, quick_gelu=model_cfg["quick_gelu"])
        clip = _wrap(network, model_cfg, f"{name}/{tag}")
    elif not tag:
        clip = assemble(model_cfg, published_preprocessing(name).preprocess_cfg, name=name)
    else:
        published = published_preprocessing(name)
        if not published.is_unique:
            warnings.warn(f"{tag}: {published.notes[0]}", TinyClipWarning, stacklevel=3)
        clip = assemble_weights(
            {"model_cfg": model_cfg, "preprocess_cfg": published.preprocess_cfg},
            read_weights(Path(tag)),
            name=f"{name}/{Path(tag).name}",
            source=name,
            weights_file=Path(tag),
        )
    clip.model.to(device)
    return clip


def load_repository(model: str, device: str | torch.device) -> LoadedClip:
    """Load ``hf-hub:owner/name``, laid out for open_clip or as a Hugging Face CLIPModel.

    Raises ModelError.
    """
    folder = _snapshot(model, _FACTS)
    if not (folder / OPEN_CLIP_CONFIG).is_file():
        if not (folder / CONFIG).is_file():
            raise ModelError(
                f"{model} has neither {OPEN_CLIP_CONFIG} nor {CONFIG}: it is not a CLIP"
            )
        read_model_cfg(folder / CONFIG)  # refuses other kinds of model before the download
        for name in WEIGHT_NAMES:
            folder = _snapshot(model, [*_FACTS, name, f"{name}.index.json", _shards(name)])
            if is_huggingface(folder):
                break
        return load_huggingface(folder, model, device)
    model_cfg = read_config(folder)["model_cfg"]  # checked before anything is built from it
    for name in OPEN_CLIP_WEIGHTS:
        folder = _snapshot(model, [*_FACTS, name])
        if (folder / name).is_file():
            expected = expected_weights({"model_cfg": model_cfg}, str(folder / OPEN_CLIP_CONFIG))
            refuse_larger(expected, stored_shapes(folder / name), str(folder / name))
            break
    # From the checked files: the repository may have changed since.
    network = _download(f"{LOCAL_DIR}{folder}", None, display_name=model)
    clip = _wrap(network, model_cfg, model, _repository_tokenizer(folder, model_cfg))
    clip.model.to(device)
    return clip


def _snapshot(model: str, patterns: list[str]) -> Path:
    """Download the matching files of a repository and return their folder."""
    import huggingface_hub

    try:
        with quiet():
            repository = model.partition(":")[2]
            return Path(huggingface_hub.snapshot_download(repository, allow_patterns=patterns))
    # As in _download: many unrelated types.
    except Exception as error:
        raise _unreachable(model, error) from error


def _shards(name: str) -> str:
    """Return the file name pattern of a split weight file's shards."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}-*-of-*.{suffix}"


def _wrap(
    network: nn.Module, model_cfg: dict[str, Any], name: str, tokenizer_file: Path | None = None
) -> LoadedClip:
    """Assemble a downloaded network with the preprocessing that open_clip set for its weights."""
    preprocess_cfg: dict[str, Any] = open_clip.get_model_preprocess_cfg(network)
    if is_coca(model_cfg):
        with torch.random.fork_rng(devices=[]):
            towers = build_model(model_cfg, name)
        fill(towers, without_decoder(network.state_dict(), model_cfg, name), name)
        network = towers
    return assemble(
        model_cfg, preprocess_cfg, name=name, network=network, tokenizer_file=tokenizer_file
    )


def _repository_tokenizer(folder: Path, model_cfg: dict[str, Any]) -> Path | None:
    """Return a repository's own tokenizer.json, unless its config names one elsewhere.

    open_clip reads the named one, so None is returned then.
    """
    text_cfg = model_cfg["text_cfg"]
    usual = text_cfg.get("vocab_size", OPEN_CLIP_VOCABULARY) == OPEN_CLIP_VOCABULARY
    name = text_cfg.get("hf_tokenizer_name")
    return tokenizer_beside(folder) if name == TOKENIZER or not (usual or name) else None


def _download(
    name: str, tag: str | None, *, quick_gelu: bool = False, display_name: str | None = None
) -> nn.Module:
    label = display_name or (f"{name}/{tag}" if tag else name)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            model: nn.Module = open_clip.create_model(
                name,
                pretrained=tag,
                precision="fp32",
                force_quick_gelu=quick_gelu,
                require_pretrained=True,
                pretrained_text=False,  # no weights for the tower alone: the CLIP's follow
                weights_only=True,
            )
    # Three libraries raise a dozen unrelated types for network, hub and file errors.
    except Exception as error:
        raise _unreachable(label, error) from error
    return model.eval()


def _unreachable(label: str, error: Exception) -> ModelError:
    cause = first_line(error)
    return ModelError(
        f"cannot fetch {label}: {shorten(cause, 200, placeholder=' …')} "
        "(without network, give a folder instead)"
    )
