"""Trim a text tower and its tokenizer.json to the tokens that a corpus needs.

Texts of the corpus have the same pieces as before, and so the same embeddings. A text that
needs other tokens can still be tokenized, but into smaller pieces, bytes or the unknown token, so
its embedding differs from the original model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from tinyclip_edge.errors import VerificationError
from tinyclip_edge.models.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip

OpenClip: TypeAlias = Any  # a module of open_clip, read by its attribute names

TOLERANCE = 1e-6  # for components of embeddings
_SAMPLE = 512  # texts of the corpus for comparing embeddings
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class TrimmedVocabulary:
    """The smaller model, the report for the manifest, and lines that say what it means."""

    clip: LoadedClip
    report: dict[str, Any]
    lines: tuple[str, ...]


def trim_vocabulary(
    clip: LoadedClip, corpus: Sequence[str], others: Sequence[str] = ()
) -> TrimmedVocabulary:
    """Return a copy of `clip` with only the tokens that the texts of `corpus` need.

    `others` are further texts; the report counts how many of them get other pieces. Raises
    DataError for a corpus that is empty or in other languages, ModelError for an unsupported
    tokenizer or text tower, VerificationError when the embedding of a text of the corpus changes.
    """
    vocabulary = Vocabulary(clip)
    read = vocabulary.read(corpus, "the corpus")
    ids = vocabulary.needed(read)
    trimmed = vocabulary.cut(ids)
    summary = vocabulary.compare(trimmed, ids, read)
    report = {**asdict(summary), "max_difference": _difference(clip, trimmed, read.texts)}
    lines = [f"vocabulary: {summary.line()}"]
    if others:
        verified = vocabulary.read(others, "the verification texts")
        recut = len(verified.texts) - int(verified.covered(ids).sum())
        report["verification_recut"] = recut
        lines += [
            f"vocabulary: {recut:,} of the {len(verified.texts):,} verification texts need "
            "other tokens and are cut into smaller pieces"
        ] * bool(recut)
    return TrimmedVocabulary(trimmed, report, tuple(lines))


def _difference(original: LoadedClip, trimmed: LoadedClip, corpus: Sequence[str]) -> float:
    """Return the largest difference of a component of the embeddings, over texts of the corpus."""
    step = max(1, len(corpus) // _SAMPLE)
    texts = list(corpus[::step])
    largest = 0.0
    with torch.inference_mode():
        for start in range(0, len(texts), _CHUNK):
            batch = texts[start : start + _CHUNK]
            before, after = (_encode(clip, batch) for clip in (original, trimmed))
            largest = max(largest, float((before - after).abs().max()))
    if not largest <= TOLERANCE:
        raise VerificationError(
            f"trimmed vocabulary: an embedding changed by {largest:.2g}, {TOLERANCE:g} allowed"
        )
    return largest


def _encode(clip: LoadedClip, texts: Sequence[str]) -> torch.Tensor:
    model: OpenClip = clip.model
    features: torch.Tensor = model.encode_text(clip.tokenizer(texts), normalize=True)
    return features
