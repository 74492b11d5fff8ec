"""Section ``data.limits``: how large what a source holds may be."""

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
    """Sizes above which shards and tables are refused; raise one where yours are larger."""

    member_mb: int = Field(
        default=MEMBER_BYTES // MIB, ge=1, description="One file of a shard, unpacked, in MiB."
    )
    sample_mb: int = Field(
        default=SAMPLE_BYTES // MIB, ge=1, description="All files of one key together, in MiB."
    )
    members: int = Field(default=SHARD_MEMBERS, ge=1, description="Files of one shard.")
    header_kb: int = Field(
        default=HEADER_BYTES // 1024,
        ge=1,
        description="What stands before a file of a shard, in KiB: pax records, long names.",
    )
    ratio: int = Field(
        default=UNPACK_RATIO,
        ge=1,
        description="Bytes that a byte of a .tar.gz may become, beyond the first 16 MiB.",
    )
    row_mb: int = Field(default=ROW_BYTES // MIB, ge=1, description="One row of a table, in MiB.")


USUAL = LimitsConfig()
