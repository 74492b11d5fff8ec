"""Section ``data.limits``: maximum sizes of the contents of a source."""

from __future__ import annotations

from pydantic import Field

from tinyclip_edge.config.section import Section
from tinyclip_edge.limits import (
    HEADER_BYTES,
    MEMBER_BYTES,
    MIB,
    ROW_BYTES,
    SAMPLE_BYTES,
    SHARD_MEMBERS,
    UNPACK_RATIO,
)


class LimitsConfig(Section):
    """Sizes above which shards and tables are refused; raise one if yours are larger."""

    member_mb: int = Field(
        default=MEMBER_BYTES // MIB,
        ge=1,
        description=("Largest file in a shard, unpacked, in MiB."),
    )
    sample_mb: int = Field(
        default=SAMPLE_BYTES // MIB,
        ge=1,
        description=("Largest total size of the files of one key, in MiB."),
    )
    members: int = Field(
        default=SHARD_MEMBERS, ge=1, description=("Largest number of files in a shard.")
    )
    header_kb: int = Field(
        default=HEADER_BYTES // 1024,
        ge=1,
        description=(
            "Largest size of the headers before a file in a shard (pax records, long "
            "names), in KiB."
        ),
    )
    ratio: int = Field(
        default=UNPACK_RATIO,
        ge=1,
        description="Largest expansion ratio of a .tar.gz, after the first 16 MiB.",
    )
    row_mb: int = Field(
        default=ROW_BYTES // MIB, ge=1, description=("Largest row of a table, in MiB.")
    )


USUAL = LimitsConfig()
