"""Open a teacher or student by its MODEL string."""

from __future__ import annotations

from pathlib import Path

import torch

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.folder import load_folder
from tinyclip_edge.models.hf_config import CONFIG
from tinyclip_edge.models.hub import load_named, load_repository
from tinyclip_edge.models.huggingface import load_huggingface
from tinyclip_edge.models.runs import student_folder
from tinyclip_edge.models.zoo import ZOO, zoo_shape

STARTER_TEACHER = "starter-teacher"
LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"


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
    if not model:
        raise ModelError("the model name is empty")
    own = model.startswith((HF_HUB, LOCAL_DIR)) or model == STARTER_TEACHER or Path(model).is_dir()
    if pretrained and (own or model in ZOO):
        raise ModelError(f"pretrained '{pretrained}' does not go with {model}: it has its weights")
    if model.startswith(HF_HUB):
        return load_repository(model, device)
    if model == STARTER_TEACHER:
        from tinyclip_edge.starter import teacher_path

        return load_folder(Path(teacher_path()), STARTER_TEACHER, device)
    if model.startswith(LOCAL_DIR):
        folder = Path(model.removeprefix(LOCAL_DIR))
        return load_folder(folder, _folder_name(folder), device)
    if Path(model).is_dir():
        return _load_path(Path(model), device)
    if Path(model).is_file():
        raise ModelError(
            f"{model} is a file, not a model folder: run `tinyclip-edge convert {model} --out DIR`"
        )
    if model in ZOO:
        return _load_zoo(model, device, allow_random=allow_random)
    return load_named(model, pretrained, device, allow_random=allow_random)


def _load_path(path: Path, device: str | torch.device) -> LoadedClip:
    folder = student_folder(path)
    if folder is not None:
        return load_folder(folder, _folder_name(folder), device)
    if (path / "manifest.json").is_file():
        raise ModelError(
            f"{path} is an exported bundle, it holds no PyTorch weights; "
            "give the run folder it came from"
        )
    if (path / CONFIG).is_file():
        return load_huggingface(path, _folder_name(path), device)
    raise ModelError(
        f"{path} is neither an open_clip folder nor a run: no open_clip_config.json; "
        f"nor a Hugging Face CLIPModel: no {CONFIG}"
    )


def _folder_name(folder: Path) -> str:
    """Name a run's student after the run."""
    resolved = folder.resolve()
    return resolved.parent.name if resolved.name == "student" else resolved.name


def _load_zoo(name: str, device: str | torch.device, *, allow_random: bool) -> LoadedClip:
    if not allow_random:
        raise ModelError(
            f"{name} is a shape without weights: distil it from a teacher, or give a run folder"
        )
    entry = zoo_shape(name)
    if entry.kind == "starter":
        from tinyclip_edge.models.student import create_student

        student = create_student(name, load_clip(entry.teacher))
        student.model.to(device)
        return student
    clip = assemble(entry.model_cfg, None, name=name)
    clip.model.to(device)
    return clip
