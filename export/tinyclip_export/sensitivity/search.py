"""Search the layers of a precision that stay float, and the smoothing of its activations.

The criteria are those that matter for retrieval: the overlap of the nearest ten and the KL of the
affinities, not the error of logits. The search uses the calibration pairs; the verification that
follows uses others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from tinyclip_edge.runtime.protocol import Features
from tinyclip_export.layout import TOWER_IO
from tinyclip_export.quantization.calibration import (
    QuantizationError,
    TowerFeatures,
    quantization_error,
)
from tinyclip_export.quantization.mixed_precision import UNIFORM, MixedPrecision
from tinyclip_export.quantization.registry import TowerRecipes
from tinyclip_export.quantization.tower_writer import TowerWriter
from tinyclip_export.settings import ExportSettings
from tinyclip_export.verification.embeddings import Session, TowerFiles
from tinyclip_export.verification.latency import interleaved_ms

RANKING_PAIRS = 128  # for single layers; points of the curve use all pairs
MIN_FLOAT_LAYERS = 4  # the curve always has points up to this number of float layers


@dataclass(frozen=True, slots=True)
class Layer:
    """The error with one layer quantized and all others in float."""

    tower: str
    node: str
    error: QuantizationError

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form."""
        return {"tower": self.tower, "node": self.node, **self.error.as_dict()}


@dataclass(frozen=True, slots=True)
class SensitivityRow:
    """A point of the curve: the most sensitive layers in float, with files and error."""

    choice: MixedPrecision
    float_layers: int
    error: QuantizationError
    paths: Mapping[str, Path]  # tower -> temporary file
    ms: float = 0.0  # one image and one text

    @property
    def bytes(self) -> int:
        """Bytes of both files."""
        return sum(path.stat().st_size for path in self.paths.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form."""
        return {
            "kept_float": self.float_layers,
            "smooth": dict(self.choice.smooth),
            "bytes": self.bytes,
            "ms": round(self.ms, 3),
            **self.error.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class SensitivityResult:
    """Ranked layers, the curve, and the row that is best on the calibration pairs."""

    precision: str
    layers: Sequence[Layer]  # most sensitive first
    rows: Sequence[SensitivityRow]  # the baseline, then increasing numbers of float layers
    choice: SensitivityRow
    pairs: int

    @property
    def attempts(self) -> list[SensitivityRow]:
        """The choice, then the rows with more float layers; never the baseline."""
        rows = list(self.rows)
        return rows[max(1, rows.index(self.choice)) :]

    def as_dict(self, chosen: SensitivityRow) -> dict[str, Any]:
        """Return the manifest's form; `chosen` is the row that passed the verification."""
        return {
            "precision": self.precision,
            "pairs": self.pairs,
            "layers": [layer.as_dict() for layer in self.layers],
            "pareto": [
                {**row.as_dict(), "proposed": row is self.choice, "chosen": row is chosen}
                for row in self.rows
            ],
        }


def search(
    writer: TowerWriter,
    recipes: TowerRecipes,
    files: TowerFiles,
    max_drop: float,
    settings: ExportSettings,
) -> SensitivityResult:
    """Rank layers, try smoothing, and choose the fewest float layers that lose at most `max_drop`.

    `files` are those of the precision as it is, the baseline. The choice is not worse than the
    baseline on these pairs in overlap, KL or recall.
    """
    evaluator = _Evaluator(writer, recipes, files)
    baseline = evaluator.row(UNIFORM, 0)
    settings.notify(
        f"{files.precision}: smoothing and layers, on {len(writer.calibration):,} pairs"
    )
    smooth = evaluator.strengths(baseline) if recipes.integer else {}
    layers = evaluator.layers(smooth)
    rows = [baseline, *evaluator.curve(smooth, layers, baseline, max_drop)]
    rows = evaluator.timed(rows)
    selected = _select(rows, max_drop)
    return SensitivityResult(files.precision, layers, rows, selected, len(writer.calibration))


def _select(rows: Sequence[SensitivityRow], max_drop: float) -> SensitivityRow:
    """Return the first row that passes, or else the best; the baseline if all others are worse."""
    baseline, *alternatives = rows
    not_worse = [row for row in alternatives if not is_worse(row.error, baseline.error)]
    passing = [row for row in not_worse if row.error.drop <= max_drop]
    if passing:
        return passing[0]
    return min([baseline, *not_worse], key=lambda row: (row.error.drop, row.error.kl))


def _meets_gate(row: SensitivityRow, baseline: SensitivityRow, max_drop: float) -> bool:
    return row.error.drop <= max_drop and not is_worse(row.error, baseline.error)


def is_worse(error: QuantizationError, baseline: QuantizationError) -> bool:
    """Whether an error is worse than the baseline in overlap, KL or recall."""
    return error.overlap < baseline.overlap or error.kl > baseline.kl or error.drop > baseline.drop


def rank_by_error(layers: Sequence[Layer]) -> list[Layer]:
    """Sort the most sensitive first: by the sum of the ranks in overlap and KL, then by KL."""
    overlap = sorted(range(len(layers)), key=lambda i: layers[i].error.overlap)
    kl = sorted(range(len(layers)), key=lambda i: -layers[i].error.kl)
    rank_sums = {i: rank + kl.index(i) for rank, i in enumerate(overlap)}
    order = sorted(rank_sums, key=lambda i: (rank_sums[i], -layers[i].error.kl))
    return [layers[i] for i in order]


@dataclass(slots=True)
class _TowerCandidate:
    """The file of one tower of a choice, and its features."""

    path: Path
    features: Features


@dataclass(slots=True)
class _Evaluator:
    """Writes and measures choices; their files are kept until latency is measured at the end."""

    writer: TowerWriter
    recipes: TowerRecipes
    files: TowerFiles
    _float: TowerFeatures = field(init=False)
    _candidates: dict[tuple[str, float, tuple[str, ...]], _TowerCandidate] = field(
        default_factory=dict
    )
    _number: Iterator[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self._float = {
            tower: self._features(tower, self.writer.source(tower)) for tower in TOWER_IO
        }
        for tower in TOWER_IO:
            path = self.files.image if tower == "image" else self.files.text
            self._candidates[tower, 0.0, ()] = _TowerCandidate(path, self._features(tower, path))

    def row(self, choice: MixedPrecision, float_layers: int) -> SensitivityRow:
        """Measure a choice for both towers on all pairs."""
        candidates = {tower: self._tower(tower, choice) for tower in TOWER_IO}
        error = self._error({tower: part.features for tower, part in candidates.items()})
        return SensitivityRow(
            choice, float_layers, error, {tower: part.path for tower, part in candidates.items()}
        )

    def strengths(self, baseline: SensitivityRow) -> dict[str, float]:
        """Return each tower's best strength, with the other in float; empty if that is worse."""
        from tinyclip_export.quantization.smoothquant import STRENGTHS

        best_strengths = {}
        for tower in TOWER_IO:
            errors = {
                strength: self._error_alone(
                    tower, self._tower(tower, MixedPrecision({tower: strength})).features
                )
                for strength in (0.0, *STRENGTHS)
            }
            acceptable = [s for s in errors if not is_worse(errors[s], errors[0.0])]
            best_strengths[tower] = min(acceptable, key=lambda s: errors[s].kl)
        return (
            best_strengths
            if not is_worse(self.row(MixedPrecision(best_strengths), 0).error, baseline.error)
            else {}
        )

    def layers(self, smooth: Mapping[str, float]) -> list[Layer]:
        """Measure each layer alone; return them, the most sensitive first."""
        ranked = []
        for tower in TOWER_IO:
            names = self.writer.layers(tower, self.recipes.of(tower))
            path = self.writer.scratch / f"{tower}-layer.onnx"
            for name in names:
                other_names = [other_name for other_name in names if other_name != name]
                self._write(tower, path, smooth.get(tower, 0.0), other_names)
                features = self._features(tower, path, RANKING_PAIRS)
                ranked.append(Layer(tower, name, self._error_alone(tower, features)))
        return rank_by_error(ranked)

    def curve(
        self,
        smooth: Mapping[str, float],
        layers: Sequence[Layer],
        baseline: SensitivityRow,
        max_drop: float,
    ) -> Iterator[SensitivityRow]:
        """Yield rows with more and more float layers, most sensitive first, until one passes."""
        count = 0 if any(smooth.values()) else 1
        passed_gate = False
        while not (passed_gate and count > MIN_FLOAT_LAYERS):
            most_sensitive = layers[:count]
            float_names = {
                tower: tuple(layer.node for layer in most_sensitive if layer.tower == tower)
                for tower in TOWER_IO
            }
            row = self.row(MixedPrecision(smooth, float_names), len(most_sensitive))
            yield row
            if count >= len(layers):
                return
            passed_gate = passed_gate or _meets_gate(row, baseline, max_drop)
            count = max(1, 2 * count)

    def timed(self, rows: Sequence[SensitivityRow]) -> list[SensitivityRow]:
        """Return the rows with the time of one image and one text, measured interleaved."""
        timed = list(rows)
        for tower in TOWER_IO:
            feed = next(iter(self.writer.calibration.feeds(tower, 1)))
            sessions = [self._open(tower, row.paths[tower]) for row in rows]
            milliseconds = interleaved_ms(sessions, feed)
            timed = [
                replace(row, ms=row.ms + ms) for row, ms in zip(timed, milliseconds, strict=True)
            ]
        return timed

    def _tower(self, tower: str, choice: MixedPrecision) -> _TowerCandidate:
        strength, float_names = (
            choice.smooth.get(tower, 0.0),
            tuple(choice.keep_float.get(tower, ())),
        )
        key = (tower, strength, float_names)
        if key not in self._candidates:
            path = self.writer.scratch / f"{tower}-choice-{next(self._number)}.onnx"
            self._write(tower, path, strength, float_names)
            self._candidates[key] = _TowerCandidate(path, self._features(tower, path))
        return self._candidates[key]

    def _write(self, tower: str, path: Path, strength: float, float_names: Sequence[str]) -> None:
        recipe = self.recipes.of(tower)
        self.writer.write(tower, recipe, path, strength=strength, keep_float=float_names)

    def _error_alone(self, tower: str, features: Features) -> QuantizationError:
        """Return the error with only this tower quantized."""
        return self._error({**self._float, tower: features})

    def _error(self, features_by_tower: TowerFeatures) -> QuantizationError:
        length = min(len(features) for features in features_by_tower.values())
        reference, truncated = (
            {tower: features[:length] for tower, features in towers.items()}
            for towers in (self._float, features_by_tower)
        )
        return quantization_error(reference, truncated, self.writer.calibration.scale)

    def _features(self, tower: str, path: Path, pairs: int | None = None) -> Features:
        features = self.writer.calibration.features(self._open(tower, path), tower, pairs)
        # Zeros make a broken candidate worst in every criterion, instead of undefined.
        return features if np.isfinite(features).all() else np.zeros_like(features)

    def _open(self, tower: str, path: Path) -> Session:
        files = self.files
        candidate_files = TowerFiles(files.precision, path, path, files.precise_int8, files.form)
        return candidate_files.open(tower)
