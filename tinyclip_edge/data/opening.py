"""Find what ``data.train`` names: starter kit, shards, tables of image paths, image folders."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

import braceexpand

from tinyclip_edge.config.limits import USUAL, LimitsConfig
from tinyclip_edge.data.cuts import Losses
from tinyclip_edge.data.folders import open_folder
from tinyclip_edge.data.remote import PIPE, RemoteShard
from tinyclip_edge.data.shards import Shard
from tinyclip_edge.data.source import PairSource, Part
from tinyclip_edge.data.tables import TABLES, open_table
from tinyclip_edge.errors import DataError, did_you_mean
from tinyclip_edge.paths import exists, is_file, is_folder

STARTER = "starter:"
SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+):")  # two letters or more: C: is a Windows drive
KNOWN = "shards (.tar, .tar.gz), a table (.csv, .tsv, .jsonl) or an image folder"


def open_source(
    source: str | Sequence[str], *, allow_pipes: bool = False, limits: LimitsConfig = USUAL
) -> PairSource:
    """Find the parts of ``starter:SPLIT`` or of one or more patterns.

    A pattern is a path or URL of shards, tables or an image folder; it may hold braces
    (``{000..009}``) and, if local, wildcards. ``pipe:COMMAND`` is refused unless ``allow_pipes``;
    so is what is larger than ``limits``.
    Raises DataError when one matches nothing or a table cannot be read.
    """
    patterns = [source] if isinstance(source, str) else list(source)
    parts: dict[str, tuple[Part, ...]] = {}
    losses = Losses()
    for pattern in patterns:
        for name in _names(pattern, allow_pipes=allow_pipes):
            if name not in parts:
                parts[name] = _parts(name, losses, limits)
    return PairSource(
        ", ".join(patterns), tuple(part for group in parts.values() for part in group), losses
    )


def _parts(name: str, losses: Losses, limits: LimitsConfig) -> tuple[Part, ...]:
    if SCHEME.match(name):
        return (RemoteShard(name, losses, limits),)
    path = Path(name)
    if is_folder(path):
        return open_folder(path, limits)
    if path.suffix.lower() in TABLES:
        return open_table(path, limits)
    return (Shard(path, losses, limits),)


def _names(pattern: str, *, allow_pipes: bool) -> list[str]:
    if pattern.startswith(STARTER):
        return [str(path) for path in _starter(pattern)]
    scheme = SCHEME.match(pattern)
    if scheme is not None:
        _check_scheme(pattern, scheme[1], allow_pipes=allow_pipes)
    try:
        expanded = list(braceexpand.braceexpand(pattern))
    except ValueError:
        raise DataError(f"shards '{pattern}': the braces do not close") from None
    if scheme is not None:
        return expanded
    return [name for one in expanded for name in _matches(one, pattern)]


def _check_scheme(pattern: str, scheme: str, *, allow_pipes: bool) -> None:
    if pattern.startswith(PIPE):
        if not allow_pipes:
            raise DataError(f"'{pattern}' runs a command; set data.allow_pipes=true to allow it")
    elif scheme == "s3":
        raise DataError(
            f"'{pattern}' is read by a command: write 'pipe:aws s3 cp {pattern} -' and set "
            f"data.allow_pipes=true"
        )
    elif scheme not in ("http", "https"):
        raise DataError(
            f"shards '{pattern}': only local files, http://, https:// and pipe: can be read"
        )


def _starter(name: str) -> list[Path]:
    folder = Path(__file__).resolve().parents[1] / "starter" / "shards"
    split = name.removeprefix(STARTER)
    found = sorted(folder.glob(f"{glob.escape(split)}-[0-9]*.tar.gz"))
    if not found:
        known = {path.name.rsplit("-", 1)[0] for path in folder.glob("*.tar.gz")}
        raise DataError(f"starter kit has no split '{split}'{did_you_mean(split, known)}")
    return found


def _matches(name: str, pattern: str) -> list[str]:
    path = Path(name)
    if exists(path):
        return [str(path)]
    found = [p for p in sorted(glob.glob(name)) if is_file(Path(p))]  # noqa: PTH207
    if not found:
        part = "" if name == pattern else f" (no '{name}')"
        raise DataError(f"nothing matches '{pattern}'{part}; give {KNOWN}")
    return found
