"""How the sources of ``data`` are read: columns of tables, sizes, commands."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import Field

from tinyclip_edge.config.limits import USUAL, LimitsConfig
from tinyclip_edge.config.section import Section


class ColumnsConfig(Section):
    """Names of a table's columns."""

    image: str | None = Field(
        default=None,
        min_length=1,
        description="Column of image paths; null: image, filepath, path or file_name.",
    )
    text: str | None = Field(
        default=None,
        min_length=1,
        description="Column of captions; null: caption, title, text or captions.",
    )


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How pairs are read; for training and validation, as section ``data`` says."""

    allow_pipes: bool = False
    limits: LimitsConfig = USUAL
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    delimiter: str | None = None  # of tables; None: by the first line
    captionless: bool = False  # whether pictures may lack captions


DEFAULT = SourceOptions()
