"""The hashed captions of a shard, or of many rows, in a file about as large as the captions.

P pairs, C captions, T n-grams.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.data.cuts import Cut, Losses
from tinyclip_edge.data.marks import MARK
from tinyclip_edge.errors import DataError
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.json_text import parse_json
from tinyclip_edge.runtime.npz_members import read_array, write_member
from tinyclip_edge.selection.ngrams import Buckets, Ints

ENDS = np.uint32
BROKEN = (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, RuntimeError)


@dataclass(frozen=True, slots=True)
class HashedUnit:
    """What selection needs to know about the pairs of a unit."""

    ids: Buckets  # [T]
    caption_ends: Ints  # [C], in ids
    pair_ends: Ints  # [P], in caption_ends
    part_ends: Ints  # of each part of the unit, in pair_ends
    keys: npt.NDArray[np.uint64]  # [P] marks of the keys
    samples: npt.NDArray[np.uint8]  # [P, 16] marks of keys and pictures; [0, 16] if not needed
    losses: Losses

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return len(self.pair_ends)

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name, in the types of the file."""
        return {
            "ids": self.ids.astype(np.min_scalar_type(self.ids.max(initial=0))),
            "caption_ends": self.caption_ends.astype(ENDS),
            "pair_ends": self.pair_ends.astype(ENDS),
            "part_ends": self.part_ends.astype(ENDS),
            "keys": self.keys,
            "samples": self.samples,
        }


def write_unit(path: Path, unit: HashedUnit) -> None:
    """Write a file atomically. Raises DataError when the disk refuses."""
    about = json.dumps(asdict(unit.losses)).encode()
    with file_written_aside(path) as file:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
            for name, array in unit.arrays.items():
                write_member(archive, f"{name}.npy", array)
            write_member(archive, "about.npy", np.frombuffer(about, np.uint8))
        file.write(content.getbuffer())


def read_unit(path: Path) -> HashedUnit:
    """Read a file. Raises DataError if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            ids, captions, pairs, parts, keys, samples, about = (
                read_array(archive, name)
                for name in (
                    "ids", "caption_ends", "pair_ends", "part_ends", "keys", "samples", "about",
                )
            )  # fmt: skip
        unit = HashedUnit(
            ids.astype(np.uint32),
            captions.astype(np.int64),
            pairs.astype(np.int64),
            parts.astype(np.int64),
            keys,
            samples.reshape(-1, MARK),
            _losses(parse_json(about.tobytes())),
        )
        fits = (
            _rising_to(unit.caption_ends, len(ids))
            and _rising_to(unit.pair_ends, len(captions), strictly=True)
            and _rising_to(unit.part_ends, len(pairs))
            and len(keys) == len(pairs)
            and len(unit.samples) in (0, len(pairs))
        )
    except BROKEN as error:
        raise _broken(path) from error
    if not fits:
        raise _broken(path)
    return unit


def _rising_to(ends: Ints, last: int, *, strictly: bool = False) -> bool:
    steps = np.diff(np.concatenate([[0], ends]))
    return (int(ends[-1]) if len(ends) else 0) == last and bool((steps >= int(strictly)).all())


def _losses(table: Mapping[str, Any]) -> Losses:
    cuts = {name: Cut(**cut) for name, cut in table["cuts"].items()}
    return Losses(cuts, table["faults"], table["samples"], table["omitted"])


def _broken(path: Path) -> DataError:
    return DataError(f"{path} is damaged; delete it, and the same command reads its shard again")
