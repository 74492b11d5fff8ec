"""Read image-caption pairs from webdataset shards (.tar, .tar.gz)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webdataset.tariterators import base_plus_ext, group_by_keys

from tinyclip_edge.config.limits import USUAL, LimitsConfig
from tinyclip_edge.data.cuts import Cut, FaultySampleError, Losses
from tinyclip_edge.data.pairs import (
    Pair,
    caption_lines,
    captions_of,
    concept_of,
)
from tinyclip_edge.data.sample_groups import Grouping, Keys, Sample, ending, split_group
from tinyclip_edge.data.tar_members import (
    BROKEN,
    MeteredStream,
    Source,
    member_content,
    member_headers,
    open_tar,
)
from tinyclip_edge.errors import DataError
from tinyclip_edge.json_text import parse_json
from tinyclip_edge.limits import MIB
from tinyclip_edge.runtime.image_formats import IMAGE_SUFFIXES

SMALLEST_PAIR = (2048, 100)  # bytes in a shard: image and caption in tar blocks, or zipped
EMPTY = "is empty: no KEY.jpg with KEY.txt in it"


@dataclass(frozen=True, slots=True)
class Shard:
    """One local shard."""

    path: Path
    losses: Losses = field(default_factory=Losses, compare=False)
    limits: LimitsConfig = field(default=USUAL, compare=False)
    captionless: bool = False  # see SourceOptions

    @property
    def fingerprint(self) -> str:
        """Its file name, because a data set may be moved before a run is resumed."""
        return self.path.name

    @property
    def pairs(self) -> None:
        """None until it is read."""

    @property
    def at_most(self) -> int:
        """Upper bound on its number of pairs, from the size of the file."""
        return math.ceil(self.size / SMALLEST_PAIR[self.path.suffix == ".gz"])

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def __iter__(self) -> Iterator[Pair]:
        return read_shard(self.path, self.losses, self.limits, captionless=self.captionless)


def read_shard(
    path: Path, losses: Losses, limits: LimitsConfig = USUAL, *, captionless: bool = False
) -> Iterator[Pair]:
    """Yield the pairs of a shard with encoded images; add losses to ``losses``.

    Raises DataError as read_samples does.
    """
    with open_tar(path, limits) as raw:
        yield from read_tar(str(path), raw, losses, limits, captionless=captionless)


def read_tar(
    name: str,
    raw: Source,
    losses: Losses,
    limits: LimitsConfig = USUAL,
    *,
    captionless: bool = False,
) -> Iterator[Pair]:
    """Yield the pairs of an unpacked tar stream; add faulty samples to ``losses``.

    With ``captionless`` a picture without a caption is a pair too. Raises DataError as read_samples
    does.
    """
    count = 0
    for sample in read_samples(name, raw, losses, limits):
        try:
            pair = _pair(sample, captionless=captionless)
        except FaultySampleError as error:
            losses.add_fault(f"shard {name}: {error}")
            continue
        count += 1
        losses.count(name, count)
        yield pair


def open_samples(path: Path, losses: Losses, limits: LimitsConfig = USUAL) -> Iterator[Sample]:
    """Yield the samples of a shard, whatever their members. Raises as read_samples does."""
    with open_tar(path, limits) as raw:
        yield from read_samples(str(path), raw, losses, limits)


def read_samples(
    name: str, raw: Source, losses: Losses, limits: LimitsConfig = USUAL
) -> Iterator[Sample]:
    """Yield the samples of an unpacked tar stream; add a truncated end to ``losses``.

    Members are grouped as in webdataset, up to the first dot of their name. If that joins several
    images with captions, the keys contain dots and end at the last one.

    Raises DataError, which names the shard, if it is empty, not a tar, damaged, or truncated before
    the end of its first sample; if the members of a key are not adjacent or a key appears twice; if
    a sample has two images; and if a limit is exceeded.
    """
    members = _Members(name, raw, limits)
    keys = Keys(name)
    before: set[str] = set()
    complete = 0
    try:
        for group in group_by_keys(members, keys=members.grouping.last, lcase=False):
            for sample in split_group(name, group):
                endings = {ending(member) for member in sample.members}
                if not members.holds(sample.key, is_complete=endings == before):
                    break
                keys.add(sample)
                before = endings
                complete += 1
                yield sample
    except ValueError as error:  # webdataset: the same member name twice
        fault = str(error.args[0]).split(" in tar file")[0]
        raise DataError(f"shard {name}: {fault}") from None
    if members.error is not None and (not complete or not members.cut):
        raise DataError(f"shard {name} {members.tail.fault(members.error)}")
    if not complete:
        cut = "is truncated before the end of its first sample; write it again"
        raise DataError(f"shard {name} {cut if members.cut else EMPTY}")
    if members.cut:
        losses.add_cut(name, Cut(complete, members.cut_samples))


class _Members:
    """The members of a tar up to its end, or up to the point where it is truncated."""

    def __init__(self, name: str, raw: Source, limits: LimitsConfig) -> None:
        self.tail = MeteredStream(name, raw, limits)
        self.grouping = Grouping()
        self.cut = False
        self.cut_samples = 0
        self.error: str | None = None
        self._name = name
        self._limits = limits
        self._begun = ""  # last member whose header was read
        self._complete_member = ""  # last member that was read completely

    def __iter__(self) -> Iterator[dict[str, Any]]:
        size, key = 0, None
        try:
            for tar, member in member_headers(self._name, self.tail, self._limits):
                self._begun = member.name
                self.grouping.note(member.name)
                before, key = key, self.grouping.key
                size = member.size + (size if key == before else 0)
                if size > self._limits.sample_mb * MIB:
                    raise DataError(
                        f"shard {self._name}: '{key}' has more than {self._limits.sample_mb} MiB; "
                        "raise data.limits.sample_mb if that is correct"
                    )
                content = member_content(tar, member)
                yield {"fname": member.name, "data": content, "__url__": self._name}
                self._complete_member = member.name
            self.cut = not self.tail.ends_with_zero_block()
            self.cut_samples = int(self.cut and self.tail.within_a_block)
        except BROKEN as error:
            self.cut, self.error = self.tail.ended, str(error.args[0]).split(" @ ")[0]
            self.cut_samples = int(self._begun != self._complete_member)

    def holds(self, key: str, *, is_complete: bool) -> bool:
        """Whether a sample is complete, that is, has the same members as the previous one."""
        if self.error is not None and not self.cut:
            return False
        begun = self._begun
        if not self.cut or key not in (base_plus_ext(begun)[0], begun.rpartition(".")[0]):
            return True
        there = is_complete and self._begun == self._complete_member
        self.cut_samples = max(self.cut_samples, int(not there))
        return there


def _pair(sample: Sample, *, captionless: bool) -> Pair:
    key = sample.key
    image = sample.member(IMAGE_SUFFIXES)
    if image is None:
        raise FaultySampleError(f"sample '{key}' has no image ({', '.join(IMAGE_SUFFIXES)})")
    try:
        meta = parse_json(sample.member(("json",)) or b"{}")
        written = sample.member(("txt",))
        value = meta.pop("caption", None)
        captions = (
            captions_of(value) if written is None else caption_lines(written.decode("utf-8-sig"))
        )
    # ValueError: invalid UTF-8 or JSON, or a number with too many digits.
    except (ValueError, AttributeError, TypeError) as error:
        raise FaultySampleError(f"caption of '{key}' cannot be read ({error})") from None
    if not captions and not captionless:
        raise FaultySampleError(f"'{key}' has no caption (KEY.txt, or KEY.json 'caption')")
    concept = concept_of(meta.pop("concept", None), captions)
    return Pair(key=key, image=image, captions=captions, concept=concept, meta=meta)
