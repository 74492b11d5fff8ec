"""Image-caption pairs: shards, memory, streams, and the teacher's features of them.

Names load on first use, so that reading shards does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyclip_edge.lazy import lazy_names

if TYPE_CHECKING:
    from tinyclip_edge.data.features import FeatureTable, TeacherFeatures
    from tinyclip_edge.data.memory import Batch, PairMemory
    from tinyclip_edge.data.opening import open_source, read_shards
    from tinyclip_edge.data.pairs import (
        BadSamples,
        Pair,
        UndecodableImageError,
        decode_image,
        decode_rgb,
    )
    from tinyclip_edge.data.pixels import PixelCodec
    from tinyclip_edge.data.shards import read_shard
    from tinyclip_edge.data.source import Count, PairSource
    from tinyclip_edge.data.stream import StreamingPairs

_HOME = {
    "BadSamples": "pairs",
    "Batch": "memory",
    "Count": "source",
    "FeatureTable": "features",
    "Pair": "pairs",
    "PairMemory": "memory",
    "PairSource": "source",
    "PixelCodec": "pixels",
    "StreamingPairs": "stream",
    "TeacherFeatures": "features",
    "UndecodableImageError": "pairs",
    "decode_image": "pairs",
    "decode_rgb": "pairs",
    "open_source": "opening",
    "read_shard": "shards",
    "read_shards": "opening",
}

__all__ = [
    "BadSamples",
    "Batch",
    "Count",
    "FeatureTable",
    "Pair",
    "PairMemory",
    "PairSource",
    "PixelCodec",
    "StreamingPairs",
    "TeacherFeatures",
    "UndecodableImageError",
    "decode_image",
    "decode_rgb",
    "open_source",
    "read_shard",
    "read_shards",
]


__getattr__ = lazy_names(__name__, _HOME)
