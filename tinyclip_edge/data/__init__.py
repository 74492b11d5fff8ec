"""Image-caption pairs: shards, memory, streams, and the teacher's features of them.

Names load on first use, so that reading shards does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyclip_edge.lazy import lazy_names

if TYPE_CHECKING:
    from tinyclip_edge.data.augment import Augment
    from tinyclip_edge.data.cuts import Losses
    from tinyclip_edge.data.feature_part import PartFeatures
    from tinyclip_edge.data.feature_store import FeatureStore
    from tinyclip_edge.data.features import CachedRows, FeatureTable, TeacherFeatures
    from tinyclip_edge.data.memory import Batch, PairMemory
    from tinyclip_edge.data.mixture import MixedPairs, TrainingPairs
    from tinyclip_edge.data.opening import (
        joined,
        open_configured,
        open_source,
        open_sources,
        open_training,
    )
    from tinyclip_edge.data.pairs import (
        BadSamples,
        Pair,
        UndecodableImageError,
        decode_image,
    )
    from tinyclip_edge.data.patterns import check_source
    from tinyclip_edge.data.pixels import PixelCodec
    from tinyclip_edge.data.prefetch import Prefetch
    from tinyclip_edge.data.shards import read_shard
    from tinyclip_edge.data.source import Count, PairSource
    from tinyclip_edge.data.stream import StreamingPairs
    from tinyclip_edge.data.views import Crops

_HOME = {
    "Augment": "augment",
    "BadSamples": "pairs",
    "Batch": "memory",
    "Count": "source",
    "Crops": "views",
    "FeatureStore": "feature_store",
    "FeatureTable": "features",
    "CachedRows": "features",
    "Losses": "cuts",
    "MixedPairs": "mixture",
    "Pair": "pairs",
    "PairMemory": "memory",
    "PairSource": "source",
    "PartFeatures": "feature_part",
    "PixelCodec": "pixels",
    "Prefetch": "prefetch",
    "StreamingPairs": "stream",
    "TeacherFeatures": "features",
    "TrainingPairs": "mixture",
    "UndecodableImageError": "pairs",
    "check_source": "patterns",
    "decode_image": "pairs",
    "open_configured": "opening",
    "open_source": "opening",
    "open_sources": "opening",
    "joined": "opening",
    "open_training": "opening",
    "read_shard": "shards",
}

__all__ = [
    "Augment",
    "BadSamples",
    "Batch",
    "CachedRows",
    "Count",
    "Crops",
    "FeatureStore",
    "FeatureTable",
    "Losses",
    "MixedPairs",
    "Pair",
    "PairMemory",
    "PairSource",
    "PartFeatures",
    "PixelCodec",
    "Prefetch",
    "StreamingPairs",
    "TeacherFeatures",
    "TrainingPairs",
    "UndecodableImageError",
    "check_source",
    "decode_image",
    "joined",
    "open_configured",
    "open_source",
    "open_sources",
    "open_training",
    "read_shard",
]


__getattr__ = lazy_names(__name__, _HOME)
