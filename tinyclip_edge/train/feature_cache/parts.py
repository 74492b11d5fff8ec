"""Which parts of the sources of a run have files in a feature cache."""

from __future__ import annotations

from collections.abc import Sequence

from tinyclip_edge.data import PairSource
from tinyclip_edge.data.marks import part_mark
from tinyclip_edge.data.source import Part


def parts_to_cache(sources: Sequence[PairSource]) -> tuple[tuple[Part, ...], frozenset[str]]:
    """Return all parts, those of texts without pictures last, and marks of the captionless ones.

    A part is captionless, and its captions are ignored, if all of its sources have texts of their
    own. A part that several sources share counts once.
    """
    paired = [part for source in sources if source.texts is None for part in source.parts]
    unpaired = [source for source in sources if source.texts is not None]
    texts = [part for source in unpaired if source.texts for part in source.texts.parts]
    own = {part_mark(part): part for source in unpaired for part in source.parts}
    if len(sources) == 1 and not own:  # marks of thousands of shards are read later
        return tuple(paired), frozenset()
    captioned = {part_mark(part): part for part in paired}
    parts = {**captioned, **own}.values()
    return (*parts, *texts), frozenset(own.keys() - captioned.keys())
