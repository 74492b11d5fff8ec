"""The pairs on which importance is measured."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from tinyclip_edge.config.section import Section
from tinyclip_edge.config.sources import SourceConfig


class CalibrationConfig(SourceConfig):
    """Pairs, or pictures and texts, on which importance is measured."""

    weight: float = Field(
        default=1.0, gt=0, description="Weight of their importance, relative to the other part's."
    )

    @model_validator(mode="after")
    def _check_texts(self) -> CalibrationConfig:
        if not self.is_paired and self.texts is None:
            raise ValueError(
                "importance is measured on affinities to texts; add texts to the images"
            )
        return self


CALIBRATION_KINDS = ("a weight", "a source")  # branches of CalibrationSource in pydantic's errors


def _kind_of_calibration(value: object) -> str:
    return CALIBRATION_KINDS[isinstance(value, (dict, CalibrationConfig))]


CalibrationSource: TypeAlias = Annotated[
    Annotated[float, Field(gt=0), Tag(CALIBRATION_KINDS[0])]
    | Annotated[CalibrationConfig, Tag(CALIBRATION_KINDS[1])],
    Discriminator(_kind_of_calibration),
]


class ImportanceConfig(Section):
    """Importance as a mix of general knowledge and knowledge of a domain."""

    general: CalibrationSource | None = Field(
        default=None,
        description="Weight of general knowledge, measured on the run's own data; or a section "
        "with a weight and other data. null: none.",
    )
    domain: CalibrationSource | None = Field(
        default=None,
        description="The same for a domain, whose pictures and texts need not be paired.",
    )

    @property
    def parts(self) -> dict[str, float | CalibrationConfig]:
        """The parts that count, by name."""
        named = {"general": self.general, "domain": self.domain}
        return {name: part for name, part in named.items() if part is not None}

    @model_validator(mode="after")
    def _check(self) -> ImportanceConfig:
        if not self.parts:
            raise ValueError("set general, domain or both")
        if all(isinstance(part, float) for part in self.parts.values()) and len(self.parts) > 1:
            raise ValueError(
                "general and domain are both measured on the run's own data; add pairs, or images "
                "and texts, to one of them"
            )
        return self
