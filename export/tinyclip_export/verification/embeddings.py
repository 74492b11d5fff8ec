"""Embeddings of the verification pairs by PyTorch and by each exported precision."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import DataError, VerificationError, first_line
from tinyclip_edge.runtime.protocol import Features, ImageInput
from tinyclip_edge.runtime.session import full_batch
from tinyclip_export.layout import ANY_INPUT, TOWER_IO, InputForm
from tinyclip_export.onnx_passes.graph_utils import is_convolutional

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip

CHUNK = 32  # images in memory at a time

Pairs: TypeAlias = "tuple[Sequence[ImageInput], Sequence[str]]"
Session: TypeAlias = Any  # onnxruntime.InferenceSession, which has no types
Ids: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TowerFiles:
    """The ONNX files of one precision, opened with the runtime's options."""

    precision: str
    image: Path
    text: Path
    precise_int8: bool = False  # u8 x u8 kernels, for 8-bit weights on x86 without VNNI
    form: InputForm = ANY_INPUT

    def open(self, tower: str, *, threads: int | None = None) -> Session:
        """Open one tower in onnxruntime; raise VerificationError if it does not load."""
        import onnxruntime as ort

        from tinyclip_edge.runtime.session import session_options

        path = self.image if tower == "image" else self.text
        options = session_options(threads=threads, precise_int8=self.precise_int8)
        try:
            return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        # onnxruntime's exceptions share no base class.
        except Exception as error:
            line = first_line(error)
            raise VerificationError(f"{path.name} does not load: {line}") from error


@dataclass(slots=True)
class TimedEmbeddings:
    """Unit-norm features of all pairs, and the median time per input."""

    image: Features
    text: Features
    milliseconds: Mapping[str, float] = field(default_factory=dict)  # tower -> median
    float_ms: Mapping[str, float] = field(
        default_factory=dict
    )  # of fp32 in the same interleaved run
    convolutional: bool = False  # whether the image tower is mainly convolutions; of the reference


def check_pairs(pairs: Pairs) -> None:
    """Raise DataError unless there are at least two pairs and as many images as texts."""
    images, texts = pairs
    if len(images) != len(texts):
        raise DataError(f"verification pairs: {len(images):,} images but {len(texts):,} texts")
    if len(images) < 2:
        raise DataError(f"verification needs 2 or more image-text pairs, got {len(images)}")


def token_rows(ids: Ids, eot: int, form: InputForm) -> list[Ids]:
    """Return rows ``[1, l]`` of padded ids ``[N, L]``, without padding if `form` allows that."""
    ids = ids.astype(form.ids)
    if form.padded:
        return [*ids[:, None]]
    ends = (ids == eot).argmax(axis=1)
    return [row[None, : end + 1] for row, end in zip(ids, ends, strict=True)]


def pixel_rows(clip: LoadedClip, images: Sequence[ImageInput], first: int = 0) -> Features:
    """Return preprocessed images, float32 ``[N, 3, S, S]``; raise DataError for a broken one."""
    from tinyclip_edge.runtime.images import open_image

    rows = [
        clip.preprocess(open_image(image, f"image {first + i}")).numpy()
        for i, image in enumerate(images)
    ]
    return np.stack(rows).astype(np.float32)


def pair_embeddings(
    clip: LoadedClip,
    towers: Sequence[TowerFiles],
    pairs: Pairs,
    *,
    eot: int,
) -> tuple[TimedEmbeddings, dict[str, TimedEmbeddings]]:
    """Return the embeddings of PyTorch and of each precision, which gets one input at a time.

    ``towers`` starts with fp32.
    """
    reference_image, image_features, image_ms = _images(clip, towers, pairs[0])
    reference_text, text_features, text_ms = _texts(clip, towers, pairs[1], eot)
    times = {p: {"image": image_ms[p], "text": text_ms[p]} for p in image_features}
    embeddings = {
        precision: TimedEmbeddings(
            image_features[precision], text_features[precision], ms, times.get("fp32", {})
        )
        for precision, ms in times.items()
    }
    convolutional = is_convolutional(towers[0].image)
    return TimedEmbeddings(reference_image, reference_text, convolutional=convolutional), embeddings


def _images(
    clip: LoadedClip, towers: Sequence[TowerFiles], images: Sequence[ImageInput]
) -> tuple[Features, dict[str, Features], dict[str, float]]:
    import torch

    step = towers[0].form.batch or 1
    runs = {tower.precision: _TimedSession(tower, "image") for tower in towers}
    reference: list[Features] = []
    for start in range(0, len(images), CHUNK):
        pixels = pixel_rows(clip, images[start : start + CHUNK], first=start)
        with torch.inference_mode():
            features = clip.model.encode_image(torch.from_numpy(pixels), normalize=True)  # type: ignore[operator]
        reference.append(features.numpy())
        for i in range(0, len(pixels), step):
            for run in runs.values():
                run(pixels[i : i + step])
    return (np.concatenate(reference), *_collected(runs))


def _texts(
    clip: LoadedClip, towers: Sequence[TowerFiles], texts: Sequence[str], eot: int
) -> tuple[Features, dict[str, Features], dict[str, float]]:
    import torch

    form = towers[0].form
    step = form.batch or 1
    runs = {tower.precision: _TimedSession(tower, "text") for tower in towers}
    reference: list[Features] = []
    for start in range(0, len(texts), CHUNK):
        ids = clip.tokenizer(list(texts[start : start + CHUNK]))
        with torch.inference_mode():
            features = clip.model.encode_text(ids, normalize=True)  # type: ignore[operator]
        reference.append(features.numpy())
        rows = token_rows(ids.numpy(), eot, form)
        for i in range(0, len(rows), step):
            for run in runs.values():
                run(np.concatenate(rows[i : i + step]))
    return (np.concatenate(reference), *_collected(runs))


class _TimedSession:
    """Runs one session input by input, or in its fixed batch size, and times each call."""

    def __init__(self, files: TowerFiles, tower: str) -> None:
        self._session, self._input = files.open(tower), TOWER_IO[tower].input_name
        self._batch = files.form.batch
        self.rows: list[Features] = []
        self.seconds: list[float] = []

    def __call__(self, batch: npt.NDArray[Any]) -> None:
        start = time.perf_counter()
        features = self._session.run(None, {self._input: full_batch(batch, self._batch)})[0]
        self.rows.append(features[: len(batch)])
        self.seconds.append(time.perf_counter() - start)


def _collected(runs: Mapping[str, _TimedSession]) -> tuple[dict[str, Features], dict[str, float]]:
    rows = {precision: np.concatenate(run.rows) for precision, run in runs.items()}
    times = {name: round(1e3 * float(np.median(run.seconds)), 3) for name, run in runs.items()}
    return rows, times
