"""Training objectives as pure functions of features."""

from __future__ import annotations

from tinyclip_edge.losses.affinity import AffinityTerms, affinity_loss
from tinyclip_edge.losses.contrastive import contrastive_loss
from tinyclip_edge.losses.feature import FeatureKind, FeatureProjector, feature_loss
from tinyclip_edge.losses.gather import gather_with_grad

__all__ = [
    "AffinityTerms",
    "FeatureKind",
    "FeatureProjector",
    "affinity_loss",
    "contrastive_loss",
    "feature_loss",
    "gather_with_grad",
]
