"""Calibration pairs as inputs of the towers, and the error of a quantization on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyclip_edge.runtime.protocol import Features, ImageInput
from tinyclip_edge.runtime.session import full_batch
from tinyclip_export.layout import ANY_INPUT, TOWER_IO, Feed, InputForm
from tinyclip_export.verification.embeddings import (
    CHUNK,
    Ids,
    Pairs,
    check_pairs,
    pixel_rows,
    token_rows,
)
from tinyclip_export.verification.metrics import recall_drop, text_to_image

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip

NEIGHBOURS = 10  # compared by the overlap
TowerFeatures: TypeAlias = "dict[str, Features]"  # tower -> embeddings of all pairs


class Calibration:
    """Inputs of both towers; pixels are memory-mapped from a file in `folder`."""

    def __init__(
        self,
        clip: LoadedClip,
        pairs: Pairs,
        folder: Path,
        *,
        eot: int,
        form: InputForm = ANY_INPUT,
    ) -> None:
        """Raise DataError for fewer than two pairs or a broken image."""
        check_pairs(pairs)
        images, texts = pairs
        self.scale, self._batch = clip.logit_scale, form.batch
        self._pixels = _pixel_file(clip, images, folder / "pixels.npy")
        self._tokens: list[Ids] = []
        for start in range(0, len(texts), CHUNK):
            ids = clip.tokenizer(list(texts[start : start + CHUNK])).numpy()
            self._tokens += token_rows(ids, eot, form)

    def __len__(self) -> int:
        return len(self._tokens)

    def batches(self, tower: str, count: int | None = None) -> Iterator[npt.NDArray[Any]]:
        """Yield the first `count` inputs of a tower, one at a time or in its fixed batch size.

        Pixels are ``[B, 3, H, W]``, ids ``[B, L]``.
        """
        total, step = min(count or len(self), len(self)), self._batch or 1
        for start in range(0, total, step):
            stop = min(start + step, total)
            if tower == "image":
                rows: npt.NDArray[Any] = np.array(self._pixels[start:stop])
            else:
                rows = np.concatenate(self._tokens[start:stop])
            yield full_batch(rows, self._batch)

    def feeds(self, tower: str, count: int | None = None) -> Iterator[Feed]:
        """Yield the inputs as feeds for a session."""
        name = TOWER_IO[tower].input_name
        return ({name: rows} for rows in self.batches(tower, count))

    def features(self, session: Any, tower: str, count: int | None = None) -> Features:  # noqa: ANN401
        """Return the unit-norm outputs ``[N, D]`` of an onnxruntime session."""
        rows = [session.run(None, feed)[0] for feed in self.feeds(tower, count)]
        return np.concatenate(rows)[: min(count or len(self), len(self))].astype(np.float32)


def _pixel_file(clip: LoadedClip, images: Sequence[ImageInput], path: Path) -> Features:
    size = clip.image_size
    shape = (len(images), 3, size, size)
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        pixels[start : start + len(part)] = pixel_rows(clip, part, first=start)
    return pixels


@dataclass(frozen=True, slots=True)
class QuantizationError:
    """Effect of a quantization on retrieval, relative to float on the same pairs."""

    overlap: float  # per cent of the nearest ten in common, mean of both directions
    kl: float  # of the affinities, in nats, mean of both directions
    recall: float  # at 1, text to image, per cent
    drop: float  # points of recall lost
    stderr: float  # standard error of the drop over the paired queries

    def as_dict(self) -> dict[str, float]:
        """Return plain rounded values."""
        return {key: round(value, 6) for key, value in asdict(self).items()}


def quantization_error(
    reference: TowerFeatures, quantized: TowerFeatures, scale: float
) -> QuantizationError:
    """Compare embeddings ``[N, D]`` of both towers; `scale` is the model's logit scale."""
    before = text_to_image(reference["image"], reference["text"])
    after = text_to_image(quantized["image"], quantized["text"])
    drop, stderr = recall_drop(before, after)
    return QuantizationError(
        _overlap(reference, quantized),
        _kl(reference, quantized, scale),
        after.recall(1),
        drop,
        stderr,
    )


def _overlap(reference: TowerFeatures, quantized: TowerFeatures) -> float:
    count = len(reference["text"])
    neighbours = max(1, min(NEIGHBOURS, count // 4))
    shares = []
    for query, candidate in (("text", "image"), ("image", "text")):
        for start in range(0, count, CHUNK):
            rows = slice(start, start + CHUNK)
            reference_top, quantized_top = (
                np.argpartition(-(features[query][rows] @ features[candidate].T), neighbours - 1)[
                    :, :neighbours
                ]
                for features in (reference, quantized)
            )
            shares.append(
                (reference_top[:, :, None] == quantized_top[:, None, :]).any(axis=2).mean(axis=1)
            )
    return 100.0 * float(np.concatenate(shares).mean())


def _kl(reference: TowerFeatures, quantized: TowerFeatures, scale: float) -> float:
    import torch

    from tinyclip_edge.losses.affinity import affinity_loss

    quantized_features, reference_features = (
        [torch.from_numpy(features[tower]).double() for tower in TOWER_IO]
        for features in (quantized, reference)
    )
    terms = affinity_loss(
        *quantized_features, *reference_features, student_scale=scale, teacher_scale=scale
    )
    return max(0.0, float(terms.kl))
