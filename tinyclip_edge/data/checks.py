"""Statistics of a sample of a source: images, captions, token ids, reading speed.

N sampled pairs, M captions of them, C context length.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinyclip_edge.data.pairs import BadSamples, Pair
from tinyclip_edge.data.pixels import PixelCodec
from tinyclip_edge.data.source import Count, PairSource
from tinyclip_edge.errors import DataError

SAMPLE = 2000  # pairs
PARTS = 20  # maximum number of parts in the sample
CHUNK = 256  # encoded pictures in memory at once
LONGEST = 4096  # tokens up to which the length of a truncated caption is counted


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """Statistics of the sample's decoded pictures; shares are of all of them."""

    images: int
    distinct: int
    commonest: float  # share of the most frequent picture
    plain: float  # share of pictures of a single colour

    @property
    def repeated(self) -> float:
        """Share of pictures that equal an earlier one."""
        return 1 - self.distinct / self.images if self.images else 0.0


@dataclass(frozen=True, slots=True)
class CaptionCheck:
    """Statistics of the sample's captions and their tokens; shares are of all of them."""

    captions: int
    distinct: int
    commonest: float
    commonest_text: str
    median: float  # tokens, start and end included, before truncation
    p95: float
    cut: float  # share longer than the context
    context_length: int
    distinct_ids: int  # distinct rows of ids, among the distinct captions
    pieces: int  # distinct ids, without start and end
    unknown: float  # share of pieces that are the tokenizer's unknown token
    highest_id: int

    @property
    def repeated(self) -> float:
        """Share of captions that equal an earlier one."""
        return 1 - self.distinct / self.captions if self.captions else 0.0


@dataclass(frozen=True, slots=True)
class SourceCheck:
    """A source and its sample."""

    source: str
    count: Count
    sampled: int
    undecodable: tuple[str, ...]  # keys
    images: ImageCheck
    captions: CaptionCheck
    samples_per_s: float  # read and decoded
    repeated_keys: int = 0  # pairs whose key occurred before, in sample or memory
    loss_lines: tuple[str, ...] = ()  # messages about truncated shards and faulty samples
    faulty: int = 0  # samples without a usable caption or image
    read: int = 0  # usable samples that were read; for a table all of its rows

    @property
    def bad(self) -> float:
        """Share of samples that are undecodable or faulty."""
        read = max(self.read, self.sampled) + self.faulty
        undecodable = len(self.undecodable) / self.sampled if self.sampled else 0.0
        return undecodable + (self.faulty / read if read else 0.0)


def check_source(
    source: PairSource,
    codec: PixelCodec,
    tokenizer: Any,  # noqa: ANN401 - open_clip's tokenizers share no type
    context_length: int,
    *,
    workers: int = 2,
    seed: int = 0,
) -> SourceCheck:
    """Examine up to 2,000 pairs. Raises DataError if the source cannot be read or has no pairs."""
    captions: list[str] = []
    keys: set[str] = set()
    bad: list[str] = []
    hashes: list[bytes] = []
    plain, sampled = 0, 0
    began = time.perf_counter()
    stream = sample_pairs(source, seed)
    with ThreadPoolExecutor(workers) as pool:
        while chunk := list(islice(stream, CHUNK)):
            sampled += len(chunk)
            decoded = pool.map(lambda pair: codec.decode(pair.image), chunk)
            for pair, image in zip(chunk, decoded, strict=True):
                captions += pair.captions if source.texts is None else ()
                keys.add(pair.key)
                if image is None:
                    bad.append(pair.key)
                    continue
                hashes.append(hashlib.sha256(image.numpy().tobytes()).digest())
                plain += _is_plain(image)
    seconds = time.perf_counter() - began
    if sampled == 0:
        BadSamples(source.name, source.losses).check(0, final=True)
        raise DataError(f"{source.name} contains no pairs")
    if source.texts is not None:
        captions = list(source.texts.lines[:SAMPLE])
    images = ImageCheck(
        len(hashes), len(set(hashes)), _commonest(hashes)[1], plain / max(1, len(hashes))
    )
    return SourceCheck(
        source.name,
        source.count(),
        sampled,
        tuple(bad),
        images,
        check_captions(captions, tokenizer, context_length),
        sampled / max(seconds, 1e-9),
        sampled - len(keys),
        tuple(source.losses.lines()),
        len(source.losses.faults),
        source.losses.read,
    )


def sample_pairs(source: PairSource, seed: int, size: int = SAMPLE) -> Iterator[Pair]:
    """Yield the first pairs of randomly chosen parts, up to ``size`` in all."""
    order = np.random.default_rng([seed, 3]).permutation(len(source.parts))
    each = -(-size // min(len(order), PARTS))
    pairs = (pair for at in order for pair in islice(source.parts[int(at)], each))
    return islice(pairs, size)


def check_captions(
    captions: Sequence[str],
    tokenizer: Any,  # noqa: ANN401
    context_length: int,
) -> CaptionCheck:
    """Return statistics of M captions; zeros without any."""
    if not captions:
        return CaptionCheck(0, 0, 0.0, "", 0.0, 0.0, 0.0, context_length, 0, 0, 0.0, 0)
    distinct = Counter(captions)
    texts = list(distinct)
    inner = getattr(tokenizer, "tokenizer", None)  # open_clip's wrapper of transformers
    padding = getattr(inner, "pad_token_id", None) or 0
    ids = tokenizer(texts)
    used = ids.ne(padding)
    lengths = _lengths(used)
    lengths = _uncut(texts, lengths, tokenizer, context_length, padding)
    content = torch.cat([row[keep][1:-1] for row, keep in zip(ids, used, strict=True)])
    unknown = getattr(inner, "unk_token_id", None)
    weights = torch.tensor([distinct[text] for text in texts])
    everything = lengths.repeat_interleave(weights).double()
    text, share = _commonest(captions)
    return CaptionCheck(
        captions=len(captions),
        distinct=len(texts),
        commonest=share,
        commonest_text=text,
        median=float(np.median(everything.numpy())),
        p95=float(np.percentile(everything.numpy(), 95)),
        cut=everything.gt(context_length).double().mean().item(),
        context_length=context_length,
        distinct_ids=len(torch.unique(ids, dim=0)),
        pieces=len(set(content.tolist())),
        unknown=_share(content, unknown),
        highest_id=int(ids.max()),
    )


def _lengths(used: Tensor) -> Tensor:
    """Return int64 ``[M]``: tokens up to the last one that is not padding."""
    return used.cumsum(dim=-1).argmax(dim=-1) + used.any(dim=-1).long()


def _uncut(
    texts: list[str],
    lengths: Tensor,
    tokenizer: Any,  # noqa: ANN401
    context_length: int,
    padding: int,
) -> Tensor:
    """Return ``lengths`` with those at the context limit replaced by their full length."""
    full = lengths.ge(context_length).nonzero()[:, 0]
    for start in range(0, len(full), CHUNK):
        rows = full[start : start + CHUNK]
        longer = tokenizer([texts[int(row)] for row in rows], context_length=LONGEST)
        lengths[rows] = _lengths(longer.ne(padding))
    return lengths


def _is_plain(image: Tensor) -> bool:
    flat = image.flatten(1)
    return bool(flat.eq(flat[:, :1]).all())


def _commonest(items: Sequence[Any]) -> tuple[Any, float]:
    if not items:
        return "", 0.0
    item, times = Counter(items).most_common(1)[0]
    return item, times / len(items)


def _share(content: Tensor, unknown: int | None) -> float:
    if unknown is None or not len(content):
        return 0.0
    return content.eq(unknown).double().mean().item()
