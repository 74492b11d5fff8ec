"""Embed collections of any size (shards, tables, folders) into parquet files, one per shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import ConfigError, did_you_mean, missing_extra
from tinyclip_edge.paths import expanded
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.parquet_header import DTYPES
from tinyclip_edge.runtime.protocol import Progress

_PACKAGES = ("webdataset", "braceexpand", "pyarrow")


@dataclass(slots=True)
class EmbedReport:
    """What ``embed_shards`` did."""

    out: str  # folder
    shards: int = 0  # of the sources
    whole: int = 0  # of them, embedded before
    pictures: int = 0  # in their files
    captions: int = 0
    unusable: int = 0  # samples
    notes: tuple[str, ...] = ()  # on truncated shards and unusable samples
    embedded: int = 0  # pictures of this call
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "notes": list(self.notes)}


def embed_shards(
    clip: EdgeCLIP,
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    dtype: str = "float16",
    workers: int = 1,
    dask: str | None = None,
    progress: Progress = False,
) -> EmbedReport:
    """Embed pictures, and their captions if any, into a folder of parquet files.

    ``sources``: webdataset shards (paths, patterns with braces and wildcards, URLs), tables, image
    folders. A file is written for each shard, or for 16,384 rows of a table or folder: ``key``,
    ``vector``, ``metadata``, ``captions`` and ``caption_vectors``, with rows in the order of the
    shard, whatever ``workers`` (processes on this machine) or ``dask`` (a scheduler's address).
    Files appear when they are complete; a repeated call skips them, and embeds changed shards
    again. ``dtype``: of the vectors, "float16", "float32" or "int8".

    Raise BundleError for files of another model or decode mode in ``out``, DataError for files of
    another dtype, for sources that do not exist, for a shard that cannot be read (after the others)
    and when more than 1 % of the samples cannot be used; TinyClipError while another process writes
    to ``out``.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise missing_extra("embedding shards needs", missing[0], "embed")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r}{did_you_mean(dtype, DTYPES)}")
    if workers < 1:
        raise ConfigError(f"workers must be 1 or more, not {workers}")
    from tinyclip_edge.collection.embed_run import embed_into

    listed = [sources] if isinstance(sources, (str, Path)) else sources
    folder = Path(expanded(out)).absolute()
    return embed_into(
        clip, [str(each) for each in listed], folder,
        dtype=dtype, workers=workers, dask=dask, progress=progress,
    )  # fmt: skip
