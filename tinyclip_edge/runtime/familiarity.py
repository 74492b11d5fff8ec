"""Whether a picture is like a model's training pictures, by its embedding and its looks.

Both are needed: a small model maps strange pictures close to familiar ones, and familiar things in
a new style look different. A picture is unfamiliar if both distances are rare among familiar
pictures.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import BundleError
from tinyclip_edge.runtime.confidence import ALWAYS, Decision
from tinyclip_edge.runtime.protocol import Features

if TYPE_CHECKING:
    from tinyclip_edge.runtime.bundle import Manifest
    from tinyclip_edge.runtime.edge import EdgeCLIP

LOOKS = 7  # values of ``looks``
FLAT = 0.03  # largest difference of neighbouring normalised pixels in a flat area
SCALES = 3  # full size, half and a quarter
LEAST_DEVIATION = 0.01  # of the largest
MAX_DIRECTIONS, LARGEST = 256, 1e15  # most directions, and largest number
MAX_QUANTILES = 200  # more would only make p-values finer


class Classification(list[tuple[str, float]]):
    """(label, probability), best first.

    ``familiar`` is False for a picture unlike the training's, whose labels are a guess; None if the
    bundle does not say. ``unknown`` is True if the best label is less probable than a threshold,
    so the picture probably shows none of the labels; None without a threshold.
    """

    def __init__(
        self,
        rows: Iterable[tuple[str, float]] = (),
        familiar: bool | None = None,
        unknown: bool | None = None,
    ) -> None:
        super().__init__(rows)
        self.familiar = familiar
        self.unknown = unknown


@dataclass(frozen=True, slots=True, eq=False)
class Distance:
    """Squared distance from a mean along whitened directions, and how rare it is."""

    mean: Features  # [D]
    directions: Features  # [Q, D], each divided by the standard deviation along it
    quantiles: Features  # [K] ascending, of familiar pictures

    def values(self, rows: Features) -> Features:
        """Return ``[N]`` of rows ``[N, D]``."""
        values: Features = np.square((rows - self.mean) @ self.directions.T).sum(axis=1)
        return values

    def rarity(self, rows: Features) -> Features:
        """Return the share of familiar pictures at least as far away as each row, as a p-value."""
        count = len(self.quantiles)
        nearer = np.searchsorted(self.quantiles, self.values(rows), side="left")
        return ((1 + count - nearer) / (1 + count)).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Familiarity:
    """Both distances, and the p-value that 99 % of familiar pictures reach in at least one."""

    embedding: Distance
    looks: Distance
    threshold: float

    @classmethod
    def of(cls, manifest: Manifest, precision: str) -> Familiarity | None:
        """Read it for a precision; None if not stored. Raises BundleError if broken."""
        entry = manifest.familiarity
        if not entry:
            return None
        try:
            own = entry["precisions"][precision]
            return cls(
                unpacked(entry["embedding"], own["quantiles"], manifest.embedding_dim),
                unpacked(entry["looks"], entry["looks"]["quantiles"], LOOKS),
                float(own["threshold"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
            raise BundleError(
                f"bundle {manifest.name}: familiarity of {precision} is broken; export it again"
            ) from error

    def knows(self, embeddings: Features, pixels: Features) -> list[bool]:
        """Return which pictures are familiar: embeddings ``[N, D]``, pixels ``[N, 3, H, W]``."""
        rarity = self.rarity(embeddings, looks(pixels))
        return [bool(value >= self.threshold) for value in rarity]

    def rarity(self, embeddings: Features, seen: Features) -> Features:
        """Return the larger p-value ``[N]`` of embeddings ``[N, D]`` and looks ``[N, 7]``."""
        larger: Features = np.maximum(self.embedding.rarity(embeddings), self.looks.rarity(seen))
        return larger


def classification(
    clip: EdgeCLIP,
    labels: Sequence[str],
    classes: Features,
    embeddings: Features,
    pixels: Features,
    decided: Decision = ALWAYS,
) -> Classification:
    """Return the labels of one picture, best first, and whether the model knows such pictures.

    ``classes`` are ``[C, D]``, ``embeddings`` ``[1, D]``, ``pixels`` ``[1, 3, H, W]``.
    """
    logits = clip.logit_scale * (classes @ embeddings[0])
    chances = decided.probabilities(logits, clip.manifest.logit_bias)
    order = np.argsort(-chances, kind="stable")
    familiar = None if clip.familiarity is None else clip.familiarity.knows(embeddings, pixels)[0]
    rows = [(labels[i], float(chances[i])) for i in order]
    return Classification(rows, familiar, decided.unknown(rows[0][1]))


def looks(pixels: Features) -> Features:
    """Return ``[N, 7]`` of preprocessed pixels ``[N, 3, H, W]``: border, flat area, detail.

    The mean of the border by channel, the share of pixels close to their right neighbour, and the
    logarithm of the mean difference of neighbours in full, half and quarter size.
    """
    edges = (pixels[:, :, 0], pixels[:, :, -1], pixels[:, :, :, 0], pixels[:, :, :, -1])
    border = np.concatenate(edges, axis=2).mean(axis=2)
    across = np.abs(np.diff(pixels, axis=3)).mean(axis=1)
    columns = [*border.T, (across < FLAT).mean(axis=(1, 2))]
    for _ in range(SCALES):
        steps = (np.abs(np.diff(pixels, axis=axis)).mean(axis=(1, 2, 3)) for axis in (2, 3))
        columns.append(np.log(1e-3 + sum(steps)))
        pixels = _halved(pixels)
    return np.stack(columns, axis=1).astype(np.float32)


def whitened(rows: Features, directions: int) -> tuple[Features, Features]:
    """Return the mean and the whitened directions in which ``rows`` vary least."""
    mean = rows.mean(axis=0, dtype=np.float64)
    _, deviations, axes = np.linalg.svd(rows - mean, full_matrices=False)
    # A direction that hardly varies would be rounded to noise.
    scale = np.maximum(deviations, LEAST_DEVIATION * deviations.max()) / np.sqrt(len(rows))
    least = slice(max(0, len(scale) - directions), None)
    return mean.astype(np.float32), (axes[least] / scale[least, None]).astype(np.float32)


def quantiles(values: Features) -> list[float]:
    """Return the ascending values, at most ``MAX_QUANTILES``, for a ``Distance``."""
    ordered = np.sort(values)
    if len(ordered) > MAX_QUANTILES:
        ordered = np.quantile(ordered, (np.arange(MAX_QUANTILES) + 0.5) / MAX_QUANTILES)
    return [float(f"{value:.5g}") for value in ordered]


def packed(mean: Features, directions: Features) -> dict[str, Any]:
    """Return a distance without its quantiles for the manifest: int8 rows with a scale each."""
    scales = np.abs(directions).max(axis=1) / 127
    rounded = np.round(directions / scales[:, None]).astype(np.int8)
    return {
        "mean": base64.b64encode(mean.astype("<f4").tobytes()).decode("ascii"),
        "directions": base64.b64encode(rounded.tobytes()).decode("ascii"),
        "scales": [float(f"{scale:.6g}") for scale in scales],
    }


def unpacked(entry: Mapping[str, Any], listed: Sequence[float], width: int) -> Distance:
    """Return the distance of a packed entry with its quantiles; ValueError for a broken one."""
    scales, quantile_list = _numbers(entry["scales"]), _numbers(listed)
    mean = np.frombuffer(base64.b64decode(entry["mean"], validate=True), "<f4")
    rows = np.frombuffer(base64.b64decode(entry["directions"], validate=True), np.int8)
    if not (0 < len(scales) <= MAX_DIRECTIONS and 0 < len(quantile_list) <= MAX_QUANTILES):
        raise ValueError("wrong number of directions or quantiles")
    if not all(np.abs(part).max() < LARGEST for part in (scales, quantile_list, mean)):
        raise ValueError("numbers that float32 does not hold")
    directions = (rows.reshape(len(scales), width) * scales[:, None]).astype(np.float32)
    ordered = np.sort(quantile_list).astype(np.float32)
    return Distance(mean.reshape(width), directions, ordered)


def _numbers(values: Sequence[float]) -> npt.NDArray[np.float64]:
    return np.array([float(value) for value in values], dtype=np.float64)


def _halved(pixels: Features) -> Features:
    """Return the means of squares of 2 x 2 pixels."""
    height, width = (size // 2 * 2 for size in pixels.shape[2:])
    even = pixels[:, :, :height, :width]
    rows = even[:, :, ::2] + even[:, :, 1::2]
    return ((rows[..., ::2] + rows[..., 1::2]) / 4).astype(np.float32)
