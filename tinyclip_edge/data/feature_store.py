"""A folder of teacher features of one recipe (teachers, preprocessing, views), one file per part.

Rows are identified by hashes of key and picture, so that an unknown sample is computed and never
gets another sample's row. Several processes can write at the same time, since the contents of the
folder ``parts`` determine which parts exist.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from tinyclip_edge.aside import NEW, clear_leftovers, work_folder
from tinyclip_edge.data.cached_part import CachedPart
from tinyclip_edge.data.feature_part import (
    BrokenPartError,
    PartFeatures,
    check_part,
    read_part,
    write_part,
)
from tinyclip_edge.data.features import TeacherFeatures
from tinyclip_edge.data.marks import caption_mark, name_mark, part_mark, part_name
from tinyclip_edge.data.memory import PairMemory
from tinyclip_edge.data.pairs import Halves, Ints
from tinyclip_edge.data.selected_part import SelectedPart
from tinyclip_edge.data.source import PairSource, Part
from tinyclip_edge.data.texts import Texts
from tinyclip_edge.errors import DataError
from tinyclip_edge.json_text import read_json_table

FORMAT = "tinyclip-edge-features"
VERSION = 1
ABOUT, PARTS = "features.json", "parts"
SHOWN = 16  # characters of a value in a message
CURE = "delete it, or set data.feature_cache to another folder"


class FeatureStore:
    """The features of many parts for one recipe; a folder of another recipe is refused."""

    def __init__(
        self, folder: Path, recipe: Mapping[str, Any], warn: Callable[[str], None] = lambda _: None
    ) -> None:
        """Open a folder, which need not exist yet. Raises DataError if it has another recipe."""
        self.folder = folder
        self.recipe = recipe
        self._digest = recipe_digest(recipe)
        self._warn = warn
        self._warned: set[Path] = set()
        self._check()

    def create(self) -> None:
        """Create the folder if it does not exist. Raises DataError."""
        about = self.folder / ABOUT
        try:
            (self.folder / PARTS).mkdir(parents=True, exist_ok=True)
            if not about.is_file():
                content = {"format": FORMAT, "version": VERSION, **self.recipe}
                with work_folder(about) as work:
                    new = work / NEW
                    new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
                    new.replace(about)
        except OSError as error:
            raise self._unwritable(error) from error

    def missing(self, parts: Sequence[Part], *, thorough: bool = False) -> list[int]:
        """Return the numbers of parts without a valid file, with a warning for invalid ones.

        ``thorough`` reads every byte. Leftovers of killed processes are removed.
        """
        for folder in (self.folder, self.folder / PARTS):
            clear_leftovers(folder)
        complete = (self._is_complete(part, thorough=thorough) for part in parts)
        return [number for number, is_complete in enumerate(complete) if not is_complete]

    def load(self, part: Part) -> PartFeatures | None:
        """Return the features of a part; None without a valid file, with a warning if damaged."""
        path, about = self._place(self._stored(part))
        if not path.is_file():
            return None
        try:
            return read_part(path, about)
        except BrokenPartError as error:
            self._tell(path, f"feature cache: {path} {error}; its rows are recomputed")
            return None

    def save(self, part: Part, features: PartFeatures) -> None:
        """Save the features of a part. Raises DataError on failure; earlier parts remain."""
        try:
            write_part(*self._place(part), features)
        except (OSError, SafetensorError) as error:
            raise self._unwritable(error) from error

    def give(
        self, parts: Sequence[Part], memories: Sequence[PairMemory], features: TeacherFeatures
    ) -> None:
        """Copy the features of ``parts``, and the seeds of their crops, to the pairs in memory.

        The tables contain the rows of several memories one after the other.
        """
        pictures: dict[bytes, list[int]] = {}
        texts: dict[bytes, list[int]] = {}
        marks = (mark for pairs in memories for mark in pairs.marks)
        for number, mark in enumerate(marks):
            pictures.setdefault(mark, []).append(number)
        captions = (text for pairs in memories for text in pairs.captions)
        for number, text in enumerate(captions):
            texts.setdefault(caption_mark(text), []).append(number)
        for part in parts:
            cached = self.load(part)
            if cached is None:
                continue
            views = cached.image.shape[1]
            matches = [
                (row, number)
                for row, mark in enumerate(cached.samples)
                for number in pictures.get(mark.tobytes(), ())
            ]
            rows, numbers = _columns(matches)
            ids = (numbers[:, None] * views + np.arange(views)).ravel()
            image = cached.image[rows].reshape(len(ids), cached.image.shape[2])
            features.image.set_rows(ids, torch.from_numpy(image))
            first = 0
            for pairs in memories:
                own = (first <= numbers) & (numbers < first + len(pairs))
                if pairs.viewed is not None:
                    pairs.viewed.seeds[numbers[own] - first] = cached.seeds[rows[own]]
                first += len(pairs)
            rows, ids = _columns(
                [
                    (row, at)
                    for row, mark in enumerate(cached.captions)
                    for at in texts.get(mark.tobytes(), ())
                ]
            )
            features.text.set_rows(ids, torch.from_numpy(cached.text[rows]))

    def attached(self, source: PairSource) -> PairSource:
        """Return the source with the cached features attached to every pair, and to its texts."""
        parts = tuple(CachedPart(part, self) for part in source.parts)
        texts = source.texts
        if texts is not None:
            texts = replace(texts, cached=dict(self._texts(texts)))
        return replace(source, parts=parts, texts=texts)

    def _texts(self, texts: Texts) -> Iterator[tuple[str, Halves]]:
        """Yield each text that has cached features, with its features."""
        for part in texts.parts:
            cached = self.load(part)
            if cached is None:
                continue
            rows = {mark.tobytes(): row for row, mark in enumerate(cached.captions)}
            for text in part.texts:
                if (row := rows.get(caption_mark(text))) is not None:
                    yield text, cached.text[row]

    def _is_complete(self, part: Part, *, thorough: bool) -> bool:
        part = self._stored(part)
        path, about = self._place(part)
        if not path.is_file():
            if any(path.parent.glob(f"{name_mark(part_name(part))}-*.safetensors")):
                self._tell(path, f"feature cache: {part_name(part)} differs from the cached one")
            return False
        try:
            if thorough:
                read_part(path, about)
            else:
                check_part(path, about)
        except BrokenPartError as error:
            self._tell(path, f"feature cache: {path} {error}; it is recomputed")
            return False
        return True

    def _stored(self, part: Part) -> Part:
        """Return the part, or the whole part that it was selected from if that one is cached."""
        if isinstance(part, SelectedPart) and self._place(part.whole)[0].is_file():
            return part.whole
        return part

    def _place(self, part: Part) -> tuple[Path, dict[str, str]]:
        """Return the file of a part, derived from its name and content, and its metadata."""
        mark = part_mark(part)
        name = f"{name_mark(part_name(part))}-{mark}.safetensors"
        about = {"format": f"{FORMAT} {VERSION}", "recipe": self._digest, "part": mark}
        return self.folder / PARTS / name, about

    def _tell(self, path: Path, text: str) -> None:
        if path not in self._warned:
            self._warned.add(path)
            self._warn(text)

    def _unwritable(self, error: Exception) -> DataError:
        return DataError(
            f"feature cache {self.folder} cannot be written ({error}); the parts in it stay valid: "
            "free some space and continue, or set data.feature_cache to another folder"
        )

    def _check(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(
                f"feature cache {self.folder} is a file; set data.feature_cache to a folder"
            )
        about = self.folder / ABOUT
        if not about.is_file():
            return
        try:
            stored = read_json_table(about, DataError, unique_keys=True)
            kind = stored.pop("format"), stored.pop("version")
        except (DataError, KeyError):
            raise DataError(f"{about} cannot be read; {CURE}") from None
        if kind != (FORMAT, VERSION):
            raise DataError(
                f"feature cache {self.folder} has format {kind[0]} {kind[1]}; this version reads "
                f"{FORMAT} {VERSION}; {CURE}"
            )
        differences = _differences(stored, json.loads(json.dumps(self.recipe)))
        if differences:
            raise DataError(
                f"feature cache {self.folder} was made with other settings: "
                f"{', '.join(differences)}; {CURE}"
            )


def recipe_digest(recipe: Mapping[str, Any]) -> str:
    """Return the hash of a recipe, without the names of its teachers."""
    return hashlib.sha256(json.dumps(_nameless(recipe), sort_keys=True).encode()).hexdigest()


def _columns(pairs: Sequence[tuple[int, int]]) -> tuple[Ints, Ints]:
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return first, second


def _differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each value that differs, except for names of teachers."""
    before, now = dict(_flat(_nameless(stored))), dict(_flat(_nameless(current)))
    return [
        f"{key} (was {_shown(before.get(key))}, is {_shown(now.get(key))})"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]


def _nameless(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, Mapping):
        return {key: _nameless(item) for key, item in value.items() if key != "name"}
    return [_nameless(item) for item in value] if isinstance(value, (list, tuple)) else value


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value, 1):
            yield from _flat(item, f"{key}[{number}]")
    else:
        yield key, value


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
