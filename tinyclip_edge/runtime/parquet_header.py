"""The header of a parquet file of embeddings, an entry of the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tinyclip_edge.json_text import parse_json
from tinyclip_edge.limits import is_count
from tinyclip_edge.runtime.decode_modes import DECODE_MODES, EXACT

VERSION = 2  # 1 had no decode mode
DTYPES = ("float16", "float32", "int8")
ENTRY = b"tinyclip_edge"  # of the file's metadata


@dataclass(frozen=True, slots=True)
class FileHeader:
    """The model of a file's embeddings, their form, and how the pictures were decoded."""

    model_hash: str  # of weights and precision
    precision: str  # of the model
    dimensions: int  # of a vector
    dtype: str = "float16"  # of a vector's numbers
    width: int | None = None  # of the model's embeddings, if vectors have fewer
    decode: str = EXACT  # mode of the pictures, of DECODE_MODES
    about: Mapping[str, Any] = field(default_factory=dict)  # JSON values of the writer
    version: int = VERSION


def header_entry(header: FileHeader) -> dict[str, str]:
    """Return a header as an entry of a file's metadata."""
    return {ENTRY.decode(): json.dumps(asdict(header), allow_nan=False)}


def parsed_header(entry: bytes) -> FileHeader:
    """Return the header that an entry holds; raise ValueError for a broken one."""
    table = parse_json(entry)
    if not isinstance(table, dict):
        raise ValueError("its header is not a table")  # noqa: TRY004 - of the file, not the code
    if is_count(table.get("version")) and table["version"] > VERSION:
        raise ValueError(
            f"its version {table['version']} is newer than {VERSION}; upgrade tinyclip-edge"
        )
    header = FileHeader(**table)
    texts = (header.model_hash, header.precision, header.dtype)
    if not (
        all(isinstance(text, str) for text in texts)
        and header.dtype in DTYPES
        and isinstance(header.decode, str)
        and header.decode in DECODE_MODES
        and is_count(header.dimensions)
        and (header.width is None or is_count(header.width, minimum=header.dimensions))
        and isinstance(header.about, dict)
    ):
        raise ValueError("its header is broken")
    return header
