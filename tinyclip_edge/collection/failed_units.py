"""The error for work on many shards of which some failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyclip_edge.collection.embed_engines import Outcome
from tinyclip_edge.errors import DataError

NAMED = 3  # shards in a message
MOST_FAILED = 10  # failed shards after which no more are tried


def failed_units(failed: Sequence[Outcome[Any]], units: int, done: str) -> DataError:
    """Return the error for the ``failed`` among ``units`` shards, which were not ``done``."""
    lines = [
        str(error) if (error := failure.error) and failure.unit.source in str(error)
        else f"{failure.unit.source}: {error}"
        for failure in failed[:NAMED]
    ]  # fmt: skip
    more = len(failed) - len(lines)
    return DataError(
        f"{len(failed):,} of {units:,} shards were not {done}: "
        f"{'; '.join(lines)}{f' and {more:,} more' if more else ''}; the others are complete; "
        "repeat the command to try these again"
    )
