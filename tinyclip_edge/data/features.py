"""Tables of a frozen teacher's features, computed on first use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tinyclip_edge.data.pairs import Halves
from tinyclip_edge.errors import DataError
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.json_text import parse_json

Ints = npt.NDArray[np.int64]
NAMES = ("image_ids", "image_values", "text_ids", "text_values")
STORED = torch.float16  # halves memory; changes a cosine by about 1e-5


@dataclass(frozen=True, slots=True)
class CachedRows:
    """Cached features of the rows of a batch ``[b, D]``, and a mask of the cached rows."""

    values: Tensor  # float16 [b, D]; zeros for missing rows
    there: npt.NDArray[np.bool_]  # [b]

    @classmethod
    def of(cls, rows: Sequence[Halves | None]) -> CachedRows | None:
        """Stack ``[D]`` rows; None if all are missing."""
        first = next((row for row in rows if row is not None), None)
        if first is None:
            return None
        values = np.stack([np.zeros_like(first) if row is None else row for row in rows])
        there = np.array([row is not None for row in rows])
        return cls(torch.from_numpy(values), there)


class FeatureTable:
    """Rows of unit-norm features ``[N, D]``, filled on demand; the first rows determine D."""

    def __init__(self, rows: int) -> None:
        self._filled = np.zeros(rows, dtype=bool)
        self._values: Tensor | None = None

    def __len__(self) -> int:
        return len(self._filled)

    @property
    def filled(self) -> int:
        """Number of rows with features."""
        return int(self._filled.sum())

    def get(self, ids: Ints, compute: Callable[[Ints], Tensor]) -> Tensor:
        """Return float32 ``[B, D]``; ``compute`` maps positions in ``ids`` to their rows."""
        missing, positions = np.unique(ids[~self._filled[ids]], return_index=True)
        if len(missing):
            at = np.flatnonzero(~self._filled[ids])[positions]
            self.set_rows(missing, compute(at))
        assert self._values is not None  # filled above or earlier
        return F.normalize(self._values[torch.from_numpy(ids)].float(), dim=-1)

    def set_rows(self, ids: Ints, values: Tensor) -> None:
        """Fill rows ``ids`` with ``[len(ids), D]``."""
        stored = values.detach().to("cpu", STORED)
        if self._values is None:
            self._values = torch.zeros(len(self._filled), stored.shape[1], dtype=STORED)
        self._values[torch.from_numpy(ids)] = stored
        self._filled[ids] = True

    @property
    def width(self) -> int | None:
        """Width of the rows, None while the table is empty."""
        return None if self._values is None else self._values.shape[1]

    def content(self) -> tuple[Tensor, Tensor]:
        """Return the indices ``[F]`` of the filled rows and their values ``[F, D]``."""
        ids = torch.from_numpy(np.flatnonzero(self._filled))
        return ids, torch.zeros(0, 0, dtype=STORED) if self._values is None else self._values[ids]


class TeacherFeatures:
    """Image features of N pictures and text features of M captions.

    ``key`` identifies teacher weights, preprocessing and data; a file with another key is ignored.
    """

    def __init__(self, key: str, pictures: int, captions: int) -> None:
        self.key = key
        self.image = FeatureTable(pictures)
        self.text = FeatureTable(captions)
        self._stored_rows: dict[Path, int] = {}  # number of rows in each file

    @property
    def filled(self) -> int:
        """Number of rows with features, pictures and captions together."""
        return self.image.filled + self.text.filled

    def digest(self) -> str:
        """Return a hash of all rows."""
        sha256 = hashlib.sha256()
        for _, table in self._tables:
            for part in table.content():
                sha256.update(part.numpy().tobytes())
        return sha256.hexdigest()

    def clear(self) -> None:
        """Remove all rows."""
        self.image, self.text = FeatureTable(len(self.image)), FeatureTable(len(self.text))
        self._stored_rows.clear()

    def save(self, path: Path) -> None:
        """Save the filled rows atomically; raise DataError if that fails.

        A file that is up to date is not written again: runs save at every checkpoint, but the rows
        are complete after the first epoch.
        """
        if self._stored_rows.get(path) == self.filled and path.is_file():
            return
        tensors: dict[str, Tensor] = {}
        for name, table in self._tables:
            ids, values = table.content()
            tensors |= {f"{name}_ids": ids, f"{name}_values": values}
        # One value, because the order of several is random: equal features must give equal bytes.
        about = json.dumps({"key": self.key, "sha256": _digest(tensors)})
        try:
            with file_written_aside(path) as aside:
                save_file(tensors, aside.name, metadata={"about": about})
        except SafetensorError as error:
            raise DataError(f"teacher features {path} cannot be written ({error})") from error
        self._stored_rows[path] = self.filled

    def load(self, path: Path) -> str | None:
        """Load the rows of a file; return the reason if that is impossible."""
        if not path.is_file():
            return "are missing"
        try:
            with safe_open(path, framework="pt") as file:
                about = parse_json((file.metadata() or {}).get("about", "{}"))
                if not isinstance(about, dict) or about.get("key") != self.key:
                    return "belong to another teacher or other pairs"
                tensors = {name: file.get_tensor(name) for name in NAMES}
        except (OSError, SafetensorError, ValueError):
            return "are truncated or damaged"
        rows = [
            (table, tensors[f"{name}_ids"], tensors[f"{name}_values"])
            for name, table in self._tables
        ]
        fits = all(_fits(*one) for one in rows)
        if not fits or about.get("sha256") != _digest(tensors):
            return "have changed since they were written"
        for table, ids, values in rows:
            if len(ids):
                table.set_rows(ids.numpy(), values)
        self._stored_rows[path] = sum(len(ids) for _, ids, _ in rows)
        return None

    @property
    def _tables(self) -> tuple[tuple[str, FeatureTable], ...]:
        return ("image", self.image), ("text", self.text)


def _fits(table: FeatureTable, ids: Tensor, values: Tensor) -> bool:
    """Whether the rows of a file fit a table."""
    if ids.dtype != torch.int64 or values.dtype != STORED or ids.ndim != 1 or values.ndim != 2:
        return False
    if len(ids) != len(values):
        return False
    if not len(ids):
        return True
    inside = int(ids.min()) >= 0 and int(ids.max()) < len(table)
    return inside and table.width in (None, values.shape[1])


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in NAMES:
        digest.update(f"{name} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()
