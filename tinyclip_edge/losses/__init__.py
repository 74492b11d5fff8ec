"""Training objectives as pure functions of features."""

from __future__ import annotations

from tinyclip_edge.losses.affinity import AffinityTerms, affinity_loss
from tinyclip_edge.losses.contrastive import contrastive_loss
from tinyclip_edge.losses.feature import FeatureKind, FeatureProjector, feature_loss
from tinyclip_edge.losses.fusion import FUSIONS
from tinyclip_edge.losses.gather import gather_with_grad, sum_with_grad
from tinyclip_edge.losses.hard_pairs import HardPairs
from tinyclip_edge.losses.interactive import interactive_loss
from tinyclip_edge.losses.objective import (
    EmbeddedBatch,
    LossTerm,
    Objective,
    PairEmbeddings,
    TeacherPart,
    TermValue,
    inherit_modules,
)
from tinyclip_edge.losses.sigmoid import SigmoidTerms, sigmoid_affinity_loss, sigmoid_loss

__all__ = [
    "FUSIONS",
    "AffinityTerms",
    "EmbeddedBatch",
    "FeatureKind",
    "FeatureProjector",
    "HardPairs",
    "LossTerm",
    "Objective",
    "PairEmbeddings",
    "SigmoidTerms",
    "TeacherPart",
    "TermValue",
    "affinity_loss",
    "contrastive_loss",
    "feature_loss",
    "gather_with_grad",
    "inherit_modules",
    "interactive_loss",
    "sigmoid_affinity_loss",
    "sigmoid_loss",
    "sum_with_grad",
]
