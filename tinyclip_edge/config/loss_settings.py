"""Settings of the loss terms, each ``loss.NAME_KEY`` in a configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tinyclip_edge.config.section import Section


class AffinitySettings(Section):
    """Probabilities, directions, and weights of pairs."""

    kind: Literal["softmax", "sigmoid"] = Field(
        default="softmax",
        description="softmax: each picture over the batch's texts and each text over its pictures; "
        "sigmoid: each pair by itself, with the biases (SigLIP).",
    )
    mean: Literal["logits", "probabilities"] = Field(
        default="logits",
        description="What is averaged over the teachers of an ensemble, with their weights.",
    )
    i2t: float = Field(
        default=0.5,
        ge=0,
        description=(
            "Weight within affinity of each picture's distribution over the batch's texts."
        ),
    )
    t2i: float = Field(
        default=0.5,
        ge=0,
        description=(
            "Weight within affinity of each text's distribution over the batch's pictures."
        ),
    )
    hard_negative: float = Field(
        default=0.0,
        ge=0,
        description="Weights pairs that do not belong together by exp(this * similarity), with "
        "mean 1 (beta of the Multi-Similarity loss, which uses 50); 0: all equally.",
    )
    hard_positive: float = Field(
        default=0.0,
        ge=0,
        description="Weights the batch's own pairs by sigmoid(-this * (similarity - "
        "affinity_hard_threshold)), with mean 1 (alpha of the Multi-Similarity loss, which uses "
        "2); 0: all equally.",
    )
    hard_threshold: float = Field(
        default=0.5,
        ge=-1,
        le=1,
        description="Cosine below which a pair of the batch counts as hard, see hard_positive.",
    )

    @model_validator(mode="after")
    def _check(self) -> AffinitySettings:
        if self.kind == "sigmoid" and (self.i2t, self.t2i) != (0.5, 0.5):
            raise ValueError(
                "affinity_i2t and affinity_t2i only apply to softmax; leave them out if "
                "affinity_kind is sigmoid"
            )
        if self.i2t == 0 and self.t2i == 0:
            raise ValueError("affinity_i2t and affinity_t2i are both 0; set affinity to 0 instead")
        return self


class FeatureSettings(Section):
    """The distance between embeddings."""

    kind: Literal["mse", "cosine"] = Field(
        default="mse",
        description=(
            "mse: mean squared difference; cosine: 1 - cosine. If widths differ, the "
            "student's features pass through a linear projector that is trained with it "
            "and then discarded."
        ),
    )
