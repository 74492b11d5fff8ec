"""Expand the patterns of ``data.train`` without torch and without opening files."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import braceexpand

from tinyclip_edge.data.kinds import PARQUET
from tinyclip_edge.errors import DataError, did_you_mean
from tinyclip_edge.paths import exists, is_file, is_folder
from tinyclip_edge.paths import expanded as filled_in
from tinyclip_edge.plugins import DATA, scheme_of
from tinyclip_edge.starter import kit_path

STARTER = "starter:"
PIPE = "pipe:"
SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+):")  # two letters or more: C: is a Windows drive
RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
NAMES = 1_000_000  # maximum number of names from a pattern
FORMS = (
    "shards (.tar, .tar.gz), a table (.csv, .tsv, .jsonl), COCO captions (.json), a .selection or "
    "an image folder"
)


def check_source(source: str | Sequence[str], *, allow_pipes: bool = False) -> None:
    """Raise DataError if a pattern matches nothing; no file is opened."""
    for pattern in [source] if isinstance(source, str) else source:
        matching_names(pattern, allow_pipes=allow_pipes)


def matching_names(pattern: str, *, allow_pipes: bool) -> list[str]:
    """Return the paths or URLs that match a pattern. Raises DataError if there are none."""
    if pattern.startswith(STARTER):
        return [str(path) for path in _starter(pattern)]
    if scheme_of(DATA, pattern) is not None:
        return [pattern]
    scheme = SCHEME.match(pattern)
    if scheme is not None:
        check_scheme(pattern, scheme[1], allow_pipes=allow_pipes)
    expanded = _expanded(pattern)
    if scheme is not None:
        return expanded
    return [name for one in expanded for name in _matches(one, pattern)]


def _expanded(pattern: str) -> list[str]:
    try:
        # braceexpand materialises a range, but generates products of ranges lazily.
        wide = any(abs(int(end) - int(start)) >= NAMES for start, end in RANGE.findall(pattern))
        names = [] if wide else list(islice(braceexpand.braceexpand(pattern), NAMES + 1))
    except (ValueError, RecursionError):
        raise DataError(f"shards '{pattern}': a brace is not closed") from None
    if wide or len(names) > NAMES:
        raise DataError(f"shards '{pattern}': the braces expand to more than {NAMES:,} names")
    return names


def check_scheme(pattern: str, scheme: str, *, allow_pipes: bool) -> None:
    """Raise DataError for an unsupported scheme, or for a pipe without ``allow_pipes``."""
    if pattern.startswith(PIPE):
        if not allow_pipes:
            raise DataError(f"'{pattern}' runs a command; set data.allow_pipes=true to allow it")
    elif scheme == "s3":
        raise DataError(
            f"'{pattern}' needs a command: write 'pipe:aws s3 cp {pattern} -' and set "
            "data.allow_pipes=true"
        )
    elif scheme not in ("http", "https"):
        raise DataError(
            f"shards '{pattern}': only local files, http://, https:// and pipe: can be read"
        )


def _starter(name: str) -> list[Path]:
    folder = kit_path()
    split = name.removeprefix(STARTER)
    shards = sorted(folder.glob(f"{glob.escape(split)}-[0-9]*.tar.gz"))
    if not shards:
        splits = {path.name.rsplit("-", 1)[0] for path in folder.glob("*.tar.gz")}
        raise DataError(f"starter kit has no split '{split}'{did_you_mean(split, splits)}")
    return shards


def _matches(name: str, pattern: str) -> list[str]:
    name = filled_in(name)
    path = Path(name)
    if is_file(path) or is_folder(path):
        paths = [str(path)]
    elif exists(path):  # reading a pipe would block
        raise DataError(f"{name} is neither a file nor a folder")
    else:
        paths = [p for p in sorted(glob.glob(name)) if is_file(Path(p))]  # noqa: PTH207
    if not paths:
        part = "" if name == pattern else f" (no '{name}')"
        raise DataError(f"nothing matches '{pattern}'{part}; use {FORMS}")
    if tables := [one for one in paths if one.lower().endswith(".parquet")]:
        raise DataError(f"{tables[0]} is {PARQUET}")
    return paths
