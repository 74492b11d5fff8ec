"""Image-caption pairs: shards, memory, streams, and the teacher's features of them.

Names load on first use, so that reading shards does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyclip_edge.lazy import lazy_names

if TYPE_CHECKING:
    from tinyclip_edge.data.features import FeatureTable, TeacherFeatures
    from tinyclip_edge.data.memory import Batch, PairMemory
    from tinyclip_edge.data.pairs import (
        BadSamples,
        Pair,
        UndecodableImageError,
        decode_image,
        decode_rgb,
    )
    from tinyclip_edge.data.pixels import PixelCodec
    from tinyclip_edge.data.shards import ShardSource, open_source, read_shard, read_shards
    from tinyclip_edge.data.stream import StreamingPairs

_HOME = {
    "BadSamples": "pairs",
    "Batch": "memory",
    "FeatureTable": "features",
    "Pair": "pairs",
    "PairMemory": "memory",
    "PixelCodec": "pixels",
    "ShardSource": "shards",
    "StreamingPairs": "stream",
    "TeacherFeatures": "features",
    "UndecodableImageError": "pairs",
    "decode_image": "pairs",
    "decode_rgb": "pairs",
    "open_source": "shards",
    "read_shard": "shards",
    "read_shards": "shards",
}

__all__ = [
    "BadSamples",
    "Batch",
    "FeatureTable",
    "Pair",
    "PairMemory",
    "PixelCodec",
    "ShardSource",
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
