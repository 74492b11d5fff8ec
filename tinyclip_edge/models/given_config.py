"""The architecture that ``--config`` names for a checkpoint without a config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import ModelError, did_you_mean, shown
from tinyclip_edge.inheritance.units import ClipUnits
from tinyclip_edge.models.build import check_model_cfg
from tinyclip_edge.models.folder import read_config
from tinyclip_edge.models.hf_config import CONFIG as HF_CONFIG
from tinyclip_edge.models.hf_config import read_model_cfg, read_preprocess_cfg
from tinyclip_edge.models.json_file import read_json
from tinyclip_edge.models.library import open_clip, quiet
from tinyclip_edge.models.names import check_config
from tinyclip_edge.models.pruned_units import UNITS, read_units
from tinyclip_edge.models.published_preprocessing import (
    preprocessing_notes,
    preprocessing_of,
    published_preprocessing,
)
from tinyclip_edge.models.runs import CONFIG, PRUNED_CONFIG
from tinyclip_edge.models.tokenization import tokenizer_beside
from tinyclip_edge.models.zoo import ZOO


@dataclass(frozen=True, slots=True)
class UserConfig:
    """A config and the files that belong to it."""

    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any] | None = None
    tokenizer_file: Path | None = None
    units: ClipUnits | None = None  # of a pruned model's own config
    notes: tuple[str, ...] = ()  # on where values come from

    @property
    def head_widths(self) -> tuple[int, int]:
        """Channels of a head, image and text; open_clip's default where the config has none.

        Raises ModelError for sizes that are not whole numbers above 0.
        """
        if self.units is not None:
            return self.units.image.head_width, self.units.text.head_width
        vision, text = (self.model_cfg.get(key, {}) for key in ("vision_cfg", "text_cfg"))
        sizes = vision.get("head_width", 64), text.get("width", 512), text.get("heads", 8)
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ModelError(
                "--config: vision_cfg.head_width, text_cfg.width and text_cfg.heads must be whole "
                f"numbers above 0, not {', '.join(map(shown, sizes))}"
            )
        image, width, heads = sizes
        if heads > width:
            raise ModelError(f"--config: text_cfg.heads {heads:,} is more than its width {width:,}")
        return image, width // heads


def read_user_config(config: str) -> UserConfig:
    """Return the config that ``--config`` names: a zoo or open_clip name, a file or a folder.

    Raises ModelError.
    """
    path = Path(config)
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_file(path)
    if config in ZOO:
        return _of_zoo(config)
    check_config(config)
    user_config = open_clip_config(config)
    assert user_config is not None  # check_config knows the same names
    return user_config


def open_clip_config(name: str) -> UserConfig | None:
    """Return open_clip's config of ``NAME`` or ``NAME/TAG``; None for an unknown name.

    A tag also sets the activation and the preprocessing of its weights; without one, the
    preprocessing is that of the name's published weights.
    """
    with quiet():
        names = open_clip.list_models()
        flat_name = name.replace("/", "-")
        architecture, _, tag = (flat_name, "", "") if flat_name in names else name.partition("/")
        if architecture not in names:
            return None
        model_cfg = open_clip.get_model_config(architecture)
        facts = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
        tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and not facts:
        raise ModelError(f"{architecture} has no pretrained tag '{tag}'{did_you_mean(tag, tags)}")
    if facts.get("quick_gelu"):
        model_cfg["quick_gelu"] = True
    if not tag:
        published = published_preprocessing(architecture)
        return UserConfig(model_cfg, published.preprocess_cfg, notes=published.notes)
    preprocess_cfg = preprocessing_of(facts)
    notes = preprocessing_notes(f"{architecture}/{tag}", preprocess_cfg)
    return UserConfig(model_cfg, preprocess_cfg or None, notes=notes)


def _of_zoo(name: str) -> UserConfig:
    entry = ZOO[name]
    if entry.kind != "starter":
        return UserConfig(entry.model_cfg)
    from tinyclip_edge.models.load import load_clip

    # A starter shape takes missing values from its teacher, so it is built; weights are discarded.
    clip = load_clip(name, allow_random=True)
    return UserConfig(clip.config["model_cfg"], clip.config["preprocess_cfg"], clip.tokenizer_file)


def _of_folder(folder: Path) -> UserConfig:
    tokenizer_file = tokenizer_beside(folder)
    has_open_clip_config = any((folder / name).is_file() for name in (CONFIG, PRUNED_CONFIG))
    if has_open_clip_config or not (folder / HF_CONFIG).is_file():
        return _of_config(read_config(folder), tokenizer_file, str(folder))
    model_cfg = read_model_cfg(folder / HF_CONFIG)
    preprocess_cfg = read_preprocess_cfg(folder, model_cfg["vision_cfg"]["image_size"])
    return UserConfig(model_cfg, preprocess_cfg, tokenizer_file)


def _of_file(path: Path) -> UserConfig:
    config = read_json(path)
    tokenizer_file = tokenizer_beside(path.parent)
    if "model_type" in config:
        return UserConfig(read_model_cfg(path), None, tokenizer_file)
    check_model_cfg(config.get("model_cfg", config), str(path))
    return _of_config(config, tokenizer_file, str(path))


def _of_config(config: dict[str, Any], tokenizer_file: Path | None, source: str) -> UserConfig:
    """Return the UserConfig of a folder's config or a bare model_cfg, which has been checked."""
    model_cfg = config.get("model_cfg", config)
    units = read_units(config[UNITS], source) if UNITS in config else None
    return UserConfig(model_cfg, config.get("preprocess_cfg"), tokenizer_file, units)
