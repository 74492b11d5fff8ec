"""An engine's files with the interface of onnxruntime's sessions that the verification uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.engines import ENGINES
from tinyclip_edge.errors import VerificationError, first_line
from tinyclip_edge.runtime.cpu import core_count
from tinyclip_edge.runtime.protocol import Features
from tinyclip_export.engines.registry import writer_of
from tinyclip_export.engines.writer import Encode
from tinyclip_export.layout import InputForm
from tinyclip_export.verification.embeddings import Session, TowerFiles


@dataclass(frozen=True, slots=True)
class EngineTowers(TowerFiles):
    """The files of one engine and precision; ``precision`` is, for example, "openvino int8"."""

    engine: str = ""
    length: int | None = None  # to which texts are padded; None for any

    def open(self, tower: str, *, threads: int | None = None) -> Session:
        """Open one tower in its engine; raise VerificationError if it does not load."""
        path = self.image if tower == "image" else self.text
        length = self.length if tower == "text" else None
        try:
            encode = writer_of(self.engine).open(path, threads or core_count())
        # Each engine has exceptions of its own.
        except Exception as error:
            raise VerificationError(
                f"{path.name} does not load: {first_line(error)[:200]}"
            ) from error
        return EngineSession(encode, path.name, length, self.form.pad_id)


@dataclass(frozen=True, slots=True)
class EngineSession:
    """One loaded file."""

    encode: Encode
    name: str
    length: int | None
    pad_id: int

    def run(self, _: object, feed: Mapping[str, npt.NDArray[Any]]) -> list[Features]:
        """Return the embeddings ``[B, D]`` of one batch; raise VerificationError if it fails."""
        (batch,) = feed.values()
        if self.length is not None:
            missing = self.length - batch.shape[1]
            batch = np.pad(batch, ((0, 0), (0, missing)), constant_values=self.pad_id)
        try:
            return [np.asarray(self.encode(batch), dtype=np.float32)]
        except Exception as error:
            raise VerificationError(
                f"{self.name} fails on {batch.shape}: {first_line(error)[:200]}"
            ) from error


def engine_towers(
    engine: str, precision: str, paths: Mapping[str, Path], *, form: InputForm, context: int
) -> EngineTowers:
    """Return the files of one precision, for inputs of `form` and texts of `context` tokens."""
    return EngineTowers(
        f"{engine} {precision}",
        paths["image"],
        paths["text"],
        form=form,
        engine=engine,
        length=context if ENGINES[engine].fixed else None,
    )
