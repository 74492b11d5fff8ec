"""Open a teacher or student by its MODEL string."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.folder import load_folder
from tinyclip_edge.models.hub import load_named, load_repository
from tinyclip_edge.models.huggingface import load_huggingface
from tinyclip_edge.models.names import (
    HF_HUB,
    LOCAL_DIR,
    STARTER_TEACHER,
    check_model,
    expanded_model,
)
from tinyclip_edge.models.runs import student_folder
from tinyclip_edge.models.zoo import ZOO, zoo_shape
from tinyclip_edge.paths import model_name
from tinyclip_edge.plugins import MODELS, PluginError, call_plugin, described, scheme_of
from tinyclip_edge.units import duration

_log = logging.getLogger(__name__)


def load_clip(
    model: str,
    pretrained: str | None = None,
    *,
    device: str | torch.device = "cpu",
    allow_random: bool = False,
) -> LoadedClip:
    """Load a CLIP as float32 in eval mode.

    ``model`` is ``starter-teacher``, an open_clip name (with ``pretrained``, or ``NAME/TAG``),
    ``hf-hub:…``, ``local-dir:…``, an open_clip or Hugging Face CLIPModel folder, a run folder, or
    a zoo name. A name without weights is refused unless ``allow_random``. Raises ModelError.
    """
    check_model(model, pretrained, allow_random=allow_random)
    started = time.perf_counter()
    clip = _loaded(expanded_model(model), pretrained, device, allow_random=allow_random)
    _log.info("model %s loaded in %s", model, duration(time.perf_counter() - started))
    return clip


def _loaded(
    model: str, pretrained: str | None, device: str | torch.device, *, allow_random: bool
) -> LoadedClip:
    if (plugin := scheme_of(MODELS, model)) is not None:
        return _load_plugin(*plugin, device)
    if model.startswith(HF_HUB):
        return load_repository(model, device)
    folder = _model_folder(model)
    if folder is not None:
        name = model if model == STARTER_TEACHER else model_name(folder)
        return load_folder(folder, name, device)
    if Path(model).is_dir():
        return load_huggingface(Path(model), model_name(model), device)
    if model in ZOO:
        return _load_zoo(model, device)
    return load_named(model, pretrained, device, allow_random=allow_random)


def _model_folder(model: str) -> Path | None:
    """Return the model folder, in open_clip's layout or our own, that a MODEL names."""
    if model == STARTER_TEACHER:
        from tinyclip_edge.starter import teacher_path

        return Path(teacher_path())
    if model.startswith(LOCAL_DIR):
        return Path(model.removeprefix(LOCAL_DIR))
    return student_folder(Path(model)) if Path(model).is_dir() else None


def _load_plugin(name: str, address: str, device: str | torch.device) -> LoadedClip:
    clip = call_plugin(MODELS, name, address, device)
    if not isinstance(clip, LoadedClip):
        raise PluginError(f"{described(MODELS, name)} must return a LoadedClip")
    return clip


def _load_zoo(name: str, device: str | torch.device) -> LoadedClip:
    entry = zoo_shape(name)
    if entry.kind == "starter":
        from tinyclip_edge.models.student import create_student

        student = create_student(name, load_clip(entry.teacher))
        student.model.to(device)
        return student
    clip = assemble(entry.model_cfg, None, name=name)
    clip.model.to(device)
    return clip
