"""Check MODEL strings without importing torch, so that mistakes are reported at once."""

from __future__ import annotations

import json
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import ModelError, did_you_mean
from tinyclip_edge.models.runs import model_config_file, student_folder
from tinyclip_edge.models.zoo import ZOO, zoo_shape
from tinyclip_edge.paths import exists, expanded, is_file, is_folder
from tinyclip_edge.plugins import MODELS, scheme_of
from tinyclip_edge.starter import teacher_path

STARTER_TEACHER = "starter-teacher"
LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"
HF_CONFIG = "config.json"
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".tar")
REGISTRY = Path(__file__).with_name("registry.json")  # written by models.registry


def expanded_model(model: str) -> str:
    """Return a MODEL with ``~`` and ``$NAME`` of its folder expanded."""
    if model.startswith(LOCAL_DIR):
        return LOCAL_DIR + expanded(model.removeprefix(LOCAL_DIR))
    return expanded(model)


def check_model(model: str, pretrained: str | None = None, *, allow_random: bool = False) -> None:
    """Raise ModelError for a MODEL that does not exist; see load_clip for the forms.

    Raises MissingExtraError for the starter teacher where the starter kit is not installed.
    The weights themselves are checked by load_clip.
    """
    if not model:
        raise ModelError("the model name is empty")
    model = expanded_model(model)
    if scheme_of(MODELS, model) is not None:
        return
    path = Path(model)
    has_own_weights = (
        model.startswith((HF_HUB, LOCAL_DIR)) or model == STARTER_TEACHER or is_folder(path)
    )
    if pretrained and (has_own_weights or model in ZOO):
        raise ModelError(
            f"pretrained '{pretrained}' selects weights of an open_clip name, which {model} is not"
        )
    if model == STARTER_TEACHER:
        teacher_path()
    if model.startswith(HF_HUB) or model == STARTER_TEACHER:
        return
    if model.startswith(LOCAL_DIR):
        model_config_file(Path(model.removeprefix(LOCAL_DIR)))
    elif is_folder(path):
        _check_folder(path)
    elif is_file(path):
        raise ModelError(
            f"{model} is a file, not a model folder: run `tinyclip-edge convert {model} --out DIR`"
        )
    elif model in ZOO:
        if not allow_random:
            raise ModelError(
                f"{model} is a shape without weights: distil it from a teacher, or give a run "
                "folder"
            )
        zoo_shape(model)
    else:
        _check_open_clip_name(model, pretrained, allow_random=allow_random)


def check_checkpoint(source: str) -> None:
    """Raise ModelError for a source of convert_checkpoint that does not exist."""
    path = Path(source)
    if is_file(path):
        return
    if path.suffix in CHECKPOINT_SUFFIXES and not exists(path):
        raise ModelError(f"no checkpoint file {path}")
    check_model(source)


def check_config(config: str) -> None:
    """Raise ModelError for a ``--config`` other than a file, folder, zoo or open_clip name."""
    names, path = open_clip_names(), Path(config)
    if is_file(path) or is_folder(path) or config in ZOO or names is None:
        return
    if exists(path):  # reading a pipe would block
        raise ModelError(f"--config {config} is neither a file nor a folder")
    name = config.partition("/")[0]
    if name not in names and config.replace("/", "-") not in names:
        near = did_you_mean(name, names | ZOO.keys())
        hint = near if "did you mean" in near else "; give a zoo name, an open_clip name or a file"
        raise ModelError(f"no config '{config}'{hint}")


def _check_folder(path: Path) -> None:
    if student_folder(path) is not None or is_file(path / HF_CONFIG):
        return
    if is_file(path / "manifest.json"):
        raise ModelError(
            f"{path} is an exported bundle, which has no PyTorch weights; "
            "give the run folder it came from"
        )
    raise ModelError(
        f"{path} is neither an open_clip folder nor a run: no open_clip_config.json; "
        f"nor a Hugging Face CLIPModel: no {HF_CONFIG}"
    )


def _check_open_clip_name(model: str, pretrained: str | None, *, allow_random: bool) -> None:
    names = open_clip_names()
    if names is None:  # open_clip is not installed; importing it reports that
        return
    name, tag = split_name(model, pretrained, names)
    tags = pretrained_tags(name)
    if tags is not None:
        check_tag(name, tag, tags, allow_random=allow_random)


def split_name(model: str, pretrained: str | None, names: frozenset[str]) -> tuple[str, str | None]:
    """Split ``NAME/TAG`` of an open_clip model; open_clip itself also writes names with a slash.

    Raises ModelError for a name that is not among ``names``, and for two different tags.
    """
    if model.replace("/", "-") in names:
        return model.replace("/", "-"), pretrained
    name, _, tag = model.partition("/")
    if name not in names:
        if Path(model).suffix or model.startswith((".", "~")) or Path(model).is_absolute():
            raise ModelError(f"no model folder {model}")
        near = did_you_mean(name, names | {*ZOO, STARTER_TEACHER})
        hint = near if "did you mean" in near else "; `tinyclip-edge models` lists those known"
        if tag and "did you mean" not in near:
            hint = f"; write hf-hub:{model} for a repository of the Hugging Face hub"
        raise ModelError(f"no model or folder '{model}'{hint}")
    if pretrained and tag and pretrained != tag:
        raise ModelError(f"two pretrained tags for {name}: '{tag}' and '{pretrained}'")
    return name, tag or pretrained


def check_tag(name: str, tag: str | None, tags: list[str], *, allow_random: bool) -> None:
    """Raise ModelError unless ``tag`` is one of an open_clip model's ``tags`` or a weight file."""
    if not tag:
        if not allow_random:
            raise ModelError(
                f"{name} needs a pretrained tag or a weight file (NAME/TAG){did_you_mean('', tags)}"
            )
    elif clean_tag(tag) not in tags and not is_file(Path(tag)):
        raise ModelError(f"{name} has no pretrained tag or file '{tag}'{did_you_mean(tag, tags)}")


def clean_tag(tag: str) -> str:
    """Return a tag as open_clip looks it up."""
    return tag.lower().replace("-", "_")


def open_clip_names() -> frozenset[str] | None:
    """Return the architectures of the installed open_clip, None without it."""
    loaded = sys.modules.get("open_clip")
    if loaded is not None:  # includes those that a program has added
        return frozenset(loaded.list_models())
    spec = find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model_configs"
    return frozenset(path.stem for path in folder.glob("*.json"))


def pretrained_tags(name: str) -> list[str] | None:
    """Return the tags of an architecture; None where the installed open_clip is another release."""
    registry = read_registry()
    try:
        same = version("open_clip_torch") == registry["open_clip"]
    except PackageNotFoundError:
        same = False
    return registry["tags"].get(name, []) if same else None


@cache
def read_registry() -> dict[str, Any]:
    """Return the generated table: rows of the zoo, and the tags of one release of open_clip."""
    registry: dict[str, Any] = json.loads(REGISTRY.read_text(encoding="utf-8"))
    return registry
