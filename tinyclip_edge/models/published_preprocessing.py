"""Preprocessing of the weights that open_clip publishes for a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinyclip_edge.models.build import PreprocessCfg
from tinyclip_edge.models.library import open_clip, quiet

_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True, slots=True)
class PublishedPreprocessing:
    """Preprocessing of the weights that are published for an open_clip name."""

    preprocess_cfg: dict[str, Any] | None = None  # None: open_clip publishes no weights
    notes: tuple[str, ...] = ()
    is_unique: bool = True  # the same for all tags


def published_preprocessing(architecture: str) -> PublishedPreprocessing:
    """Return the preprocessing of most tags of a name, with a note unless it is CLIP's own."""
    tables: dict[str, dict[str, Any]] = {}
    tags: dict[str, list[str]] = {}
    with quiet():
        for tag in open_clip.list_pretrained_tags_by_model(architecture):
            table = preprocessing_of(open_clip.get_pretrained_cfg(architecture, tag))
            tables[_described(table)] = table
            tags.setdefault(_described(table), []).append(tag)
    if not tables:
        return PublishedPreprocessing()
    taken = max(tags, key=lambda text: len(tags[text]))
    if len(tables) == 1:
        table = tables[taken]
        return PublishedPreprocessing(
            table, preprocessing_notes(f"{architecture}'s published weights", table)
        )
    others = "; ".join(f"{', '.join(tags[text])}: {text}" for text in tags if text != taken)
    note = (
        f"preprocessing of {architecture}/{tags[taken][0]}: {taken}; its pretrained tags differ "
        f"({others}): name the tag of these weights, `convert FILE --config {architecture}/TAG`"
    )
    return PublishedPreprocessing(tables[taken], (note,), is_unique=False)


def preprocessing_notes(owner: str, preprocess_cfg: dict[str, Any]) -> tuple[str, ...]:
    """Return one line about preprocessing that is not CLIP's own, else none."""
    usual = PreprocessCfg()
    if all(value == getattr(usual, key) for key, value in preprocess_cfg.items()):
        return ()
    return (f"preprocessing of {owner}: {_described(preprocess_cfg)}",)


def preprocessing_of(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the preprocessing in open_clip's facts about a pretrained tag."""
    return {key: facts[key] for key in _PREPROCESSING if facts.get(key)}


def _described(preprocess_cfg: dict[str, Any]) -> str:
    words = []
    for key, value in preprocess_cfg.items():
        numbers = isinstance(value, (list, tuple))
        words.append(f"{key} {' '.join(f'{n:.4g}' for n in value)}" if numbers else str(value))
    return ", ".join(words)
