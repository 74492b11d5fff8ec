"""Which layers of a precision stay float, and how far its activations are smoothed.

Everything is measured by what a search would notice: how many of the nearest ten stay, and how far
the affinities move. Logit error is not looked at. The pairs are those of the calibration, so what
the verification measures afterwards is measured on others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from tinyclip_edge.runtime.protocol import Features
from tinyclip_export.layout import TOWER_IO
from tinyclip_export.quantization.calibration import Both, QuantizationError, damage
from tinyclip_export.quantization.mixed_precision import PLAIN, MixedPrecision
from tinyclip_export.quantization.registry import TowerRecipes
from tinyclip_export.quantization.tower_writer import TowerWriter
from tinyclip_export.settings import ExportSettings
from tinyclip_export.verification.embeddings import Session, TowerFiles
from tinyclip_export.verification.latency import interleaved_ms

RANKING_PAIRS = 128  # each layer is judged on; the choices on all pairs
LEAST_KEPT = 4  # so many layers in float are always tried, for the curve


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer in few bits, all others in float."""

    tower: str
    node: str
    found: QuantizationError

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form."""
        return {"tower": self.tower, "node": self.node, **self.found.as_dict()}


@dataclass(slots=True)
class SensitivityRow:
    """A point of the curve: so many of the worst layers in float."""

    choice: MixedPrecision
    kept: int
    found: QuantizationError
    paths: Mapping[str, Path]  # tower -> file, until the search's folder goes
    ms: float = 0.0  # one image and one text

    @property
    def bytes(self) -> int:
        """Bytes of both files."""
        return sum(path.stat().st_size for path in self.paths.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form."""
        return {
            "kept_float": self.kept,
            "smooth": dict(self.choice.smooth),
            "bytes": self.bytes,
            "ms": round(self.ms, 3),
            **self.found.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class SensitivityResult:
    """Layers by damage, the curve, and the row that calibration pairs would choose."""

    precision: str
    layers: Sequence[Layer]  # worst first
    rows: Sequence[SensitivityRow]  # plain first, then more and more layers in float
    choice: SensitivityRow
    pairs: int

    @property
    def attempts(self) -> list[SensitivityRow]:
        """The choice, then those with more layers in float; plain is none of them."""
        rows = list(self.rows)
        return rows[max(1, rows.index(self.choice)) :]

    def as_dict(self, chosen: SensitivityRow) -> dict[str, Any]:
        """Return the manifest's form, with what the verification left of the choice."""
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
    forge: TowerWriter,
    recipes: TowerRecipes,
    files: TowerFiles,
    max_drop: float,
    settings: ExportSettings,
) -> SensitivityResult:
    """Rank layers, try smoothing, and choose the fewest float layers that lose `max_drop` at most.

    `files` are the plain ones of the precision. The choice is nowhere worse than plain on these
    pairs: not in overlap, not in KL, not in recall.
    """
    bench = _Bench(forge, recipes, files)
    plain = bench.row(PLAIN, 0)
    settings.tell(f"{files.precision}: smoothing and layers, on {len(forge.calibration)} pairs")
    smooth = bench.strengths(plain) if recipes.integer else {}
    layers = bench.layers(smooth)
    rows = [plain, *bench.curve(smooth, layers, plain, max_drop)]
    bench.time(rows)
    choice = _chosen(rows, max_drop)
    return SensitivityResult(files.precision, layers, rows, choice, len(forge.calibration))


def _chosen(rows: Sequence[SensitivityRow], max_drop: float) -> SensitivityRow:
    """Take the first row that holds, else the best; plain where all others are worse."""
    plain, *others = rows
    good = [row for row in others if not worse(row.found, plain.found)]
    holding = [row for row in good if row.found.drop <= max_drop]
    if holding:
        return holding[0]
    return min([plain, *good], key=lambda row: (row.found.drop, row.found.kl))


def _holds(row: SensitivityRow, plain: SensitivityRow, max_drop: float) -> bool:
    return row.found.drop <= max_drop and not worse(row.found, plain.found)


def worse(found: QuantizationError, plain: QuantizationError) -> bool:
    """Whether a choice is worse than plain in any of the three."""
    return found.overlap < plain.overlap or found.kl > plain.kl or found.drop > plain.drop


def by_damage(layers: Sequence[Layer]) -> list[Layer]:
    """Sort worst first: by the sum of the places in overlap and in KL, then by KL."""
    overlap = sorted(range(len(layers)), key=lambda i: layers[i].found.overlap)
    kl = sorted(range(len(layers)), key=lambda i: -layers[i].found.kl)
    places = {i: place + kl.index(i) for place, i in enumerate(overlap)}
    order = sorted(places, key=lambda i: (places[i], -layers[i].found.kl))
    return [layers[i] for i in order]


@dataclass(slots=True)
class _TowerSearch:
    """One tower of one choice, measured."""

    path: Path
    features: Features


@dataclass(slots=True)
class _Bench:
    """Makes choices and measures them; files of the curve stay until the end for their latency."""

    forge: TowerWriter
    recipes: TowerRecipes
    files: TowerFiles
    _float: Both = field(init=False)
    _made: dict[tuple[str, float, tuple[str, ...]], _TowerSearch] = field(default_factory=dict)
    _number: Iterator[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self._float = {tower: self._features(tower, self.forge.source(tower)) for tower in TOWER_IO}
        for tower in TOWER_IO:
            path = self.files.image if tower == "image" else self.files.text
            self._made[tower, 0.0, ()] = _TowerSearch(path, self._features(tower, path))

    def row(self, choice: MixedPrecision, kept: int) -> SensitivityRow:
        """Measure both towers of a choice on all pairs."""
        made = {tower: self._tower(tower, choice) for tower in TOWER_IO}
        found = self._damage({tower: part.features for tower, part in made.items()})
        return SensitivityRow(
            choice, kept, found, {tower: part.path for tower, part in made.items()}
        )

    def strengths(self, plain: SensitivityRow) -> dict[str, float]:
        """Return each tower's best strength, the other in float; none where both lose by it."""
        from tinyclip_export.quantization.smoothquant import STRENGTHS

        best = {}
        for tower in TOWER_IO:
            tried = {
                strength: self._alone(
                    tower, self._tower(tower, MixedPrecision({tower: strength})).features
                )
                for strength in (0.0, *STRENGTHS)
            }
            kept = [s for s in tried if not worse(tried[s], tried[0.0])]
            best[tower] = min(kept, key=lambda s: tried[s].kl)
        return best if not worse(self.row(MixedPrecision(best), 0).found, plain.found) else {}

    def layers(self, smooth: Mapping[str, float]) -> list[Layer]:
        """Measure each layer alone, worst first."""
        found = []
        for tower in TOWER_IO:
            names = self.forge.layers(tower, self.recipes.of(tower))
            path = self.forge.scratch / f"{tower}-layer.onnx"
            for name in names:
                others = [other for other in names if other != name]
                self._write(tower, path, smooth.get(tower, 0.0), others)
                features = self._features(tower, path, RANKING_PAIRS)
                found.append(Layer(tower, name, self._alone(tower, features)))
        return by_damage(found)

    def curve(
        self,
        smooth: Mapping[str, float],
        layers: Sequence[Layer],
        plain: SensitivityRow,
        max_drop: float,
    ) -> Iterator[SensitivityRow]:
        """Keep more and more of the worst layers in float, until the gate holds."""
        kept = 0 if any(smooth.values()) else 1
        held = False
        while not (held and kept > LEAST_KEPT):
            worst = layers[:kept]
            keep = {
                tower: tuple(layer.node for layer in worst if layer.tower == tower)
                for tower in TOWER_IO
            }
            row = self.row(MixedPrecision(smooth, keep), len(worst))
            yield row
            if kept >= len(layers):
                return
            held = held or _holds(row, plain, max_drop)
            kept = max(1, 2 * kept)

    def time(self, rows: Sequence[SensitivityRow]) -> None:
        """Time one image and one text in all rows by turns."""
        for tower in TOWER_IO:
            feed = next(iter(self.forge.calibration.feeds(tower, 1)))
            sessions = [self._open(tower, row.paths[tower]) for row in rows]
            for row, ms in zip(rows, interleaved_ms(sessions, feed), strict=True):
                row.ms += ms

    def _tower(self, tower: str, choice: MixedPrecision) -> _TowerSearch:
        strength, keep = choice.smooth.get(tower, 0.0), tuple(choice.keep_float.get(tower, ()))
        key = (tower, strength, keep)
        if key not in self._made:
            path = self.forge.scratch / f"{tower}-choice-{next(self._number)}.onnx"
            self._write(tower, path, strength, keep)
            self._made[key] = _TowerSearch(path, self._features(tower, path))
        return self._made[key]

    def _write(self, tower: str, path: Path, strength: float, keep: Sequence[str]) -> None:
        recipe = self.recipes.of(tower)
        self.forge.write(tower, recipe, path, strength=strength, keep_float=keep)

    def _alone(self, tower: str, features: Features) -> QuantizationError:
        """Compare with float where this tower alone is quantized."""
        return self._damage({**self._float, tower: features})

    def _damage(self, found: Both) -> QuantizationError:
        shortest = min(len(features) for features in found.values())
        reference, cut = (
            {tower: features[:shortest] for tower, features in both.items()}
            for both in (self._float, found)
        )
        return damage(reference, cut, self.forge.calibration.scale)

    def _features(self, tower: str, path: Path, pairs: int | None = None) -> Features:
        features = self.forge.calibration.features(self._open(tower, path), tower, pairs)
        # A broken candidate loses by every figure instead of making them undefined.
        return features if np.isfinite(features).all() else np.zeros_like(features)

    def _open(self, tower: str, path: Path) -> Session:
        files = self.files
        opened = TowerFiles(files.precision, path, path, files.precise_int8, files.form)
        return opened.open(tower)
