"""The package's entry points. Every command imports this module, so it imports nothing heavy."""

from pydantic import Field

from tinyclip_edge.config import Section
from tinyclip_edge.config.loss import LossEntry


class MarginSettings(Section):
    """Settings of the loss: loss.margin_width in a configuration."""

    width: float = Field(default=0.2, gt=0, description="Cosine by which a pair must lead.")


MARGIN = LossEntry(
    name="margin",
    description="Weight of the margin by which each pair must lead the batch's other texts.",
    implementation="margin_terms:MarginTerm",
    settings=MarginSettings,
    uses_teacher=False,
)
# An export target: the keys of configs/export, or the path of a YAML file.
TARGET = {"precisions": ["fp32", "int8"]}
