"""The table of loss terms, and the section of a run whose keys it makes.

A further loss is one more :func:`register_loss` here and its file in ``tinyclip_edge/losses``. The
table holds no code: a term's class is named and imported when a run begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from tinyclip_edge.config.section import Section
from tinyclip_edge.errors import ConfigError

OTHER_LOSSES = ("sparsity_price",)  # terms of masks, which have no weight of their own


class NoSettings(Section):
    """A term that only its weight configures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossEntry:
    """One loss term; ``loss.NAME`` is its weight, ``loss.NAME_KEY`` each of its settings."""

    name: str  # of the term in the configuration, in events and in the report
    default: float = 0.0  # weight
    description: str  # of the weight
    implementation: str  # "module:class", see tinyclip_edge.losses.objective.LossTerm
    settings: type[Section] = NoSettings
    logged: tuple[str, ...] = ()  # names of further figures that the term logs
    uses_teacher: bool = True  # it compares with the teacher's embeddings
    uses_scale: bool = False  # its gradient reaches the student's logit scale

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """The term's keys in the section ``loss``."""
        weight = Field(default=self.default, ge=0, description=self.description)
        fields = {self.name: FieldInfo.from_annotated_attribute(float, weight)}
        for key, field in self.settings.model_fields.items():
            fields[f"{self.name}_{key}"] = field
        return fields


LOSS_TERMS: dict[str, LossEntry] = {}


class LossConfig(Section):
    """Weights of the loss terms and the factors on cosine similarities."""

    teacher_logit_scale: float | None = Field(
        default=None,
        gt=0,
        description="Factor on the teacher's similarities; null: the teacher's own.",
    )
    student_logit_scale: float | Literal["teacher", "learned"] = Field(
        default="teacher",
        description="Factor on the student's similarities: a fixed number, teacher (the teacher's, "
        "fixed), or learned (starts at the teacher's, at most 100).",
    )

    def weight(self, term: str) -> float:
        """Return the weight of a term of the table."""
        return float(getattr(self, term))

    def settings(self, term: str) -> dict[str, Any]:
        """Return the settings of a term of the table. Raises ValidationError if they conflict."""
        settings = LOSS_TERMS[term].settings
        values = {key: getattr(self, f"{term}_{key}") for key in settings.model_fields}
        return settings.model_validate(values).model_dump()

    @property
    def active(self) -> dict[str, LossEntry]:
        """The terms that have a weight."""
        return {name: entry for name, entry in LOSS_TERMS.items() if self.weight(name) > 0}

    @model_validator(mode="after")
    def _check(self) -> LossConfig:
        if not self.active:
            *names, last = LOSS_TERMS
            raise ValueError(f"{', '.join(names)} and {last} are all 0; give one of them a weight")
        for name in self.active:
            self.settings(name)
        if isinstance(self.student_logit_scale, float) and self.student_logit_scale <= 0:
            raise ValueError("student_logit_scale must be above 0")
        return self


_SCALES = dict(LossConfig.model_fields)


def register_loss(entry: LossEntry) -> LossEntry:
    """Add a term to the table and its keys to the schema. Raises ConfigError for a taken key."""
    for key in entry.fields:
        if key in LossConfig.model_fields:
            raise ConfigError(f"loss.{key} is a key already; give the term another name")
    LOSS_TERMS[entry.name] = entry
    _rebuild()
    return entry


def unregister_loss(name: str) -> None:
    """Take a term out of the table and its keys out of the schema."""
    del LOSS_TERMS[name]
    _rebuild()


def loss_names() -> tuple[str, ...]:
    """Return the names of all losses that events may hold, the total first."""
    terms = [name for entry in LOSS_TERMS.values() for name in (entry.name, *entry.logged)]
    return ("loss", *terms, *OTHER_LOSSES)


def _rebuild() -> None:
    """Give the schema the fields of the table, and the sections around it the new schema."""
    fields = LossConfig.model_fields
    fields.clear()
    for entry in LOSS_TERMS.values():
        fields.update(entry.fields)
    fields.update(_SCALES)
    LossConfig.model_rebuild(force=True)
    for section in Section.__subclasses__():
        if any(field.annotation is LossConfig for field in section.model_fields.values()):
            section.model_rebuild(force=True)


class AffinitySettings(Section):
    """Parts of the two directions."""

    i2t: float = Field(
        default=0.5, ge=0, description="Part of affinity: each picture over the batch's texts."
    )
    t2i: float = Field(
        default=0.5, ge=0, description="Part of affinity: each text over the batch's pictures."
    )

    @model_validator(mode="after")
    def _check(self) -> AffinitySettings:
        if self.i2t == 0 and self.t2i == 0:
            raise ValueError("affinity_i2t and affinity_t2i are both 0; set affinity to 0 instead")
        return self


class FeatureSettings(Section):
    """The distance between embeddings."""

    kind: Literal["mse", "cosine"] = Field(
        default="mse",
        description="mse: mean squared difference; cosine: 1 - cosine. Where widths differ the "
        "student's features pass a linear projector that is trained along and not kept.",
    )


register_loss(
    LossEntry(
        name="affinity",
        default=1.0,
        description="Weight of affinity mimicking.",
        implementation="tinyclip_edge.losses.affinity:AffinityTerm",
        settings=AffinitySettings,
        logged=("affinity_i2t", "affinity_t2i", "kl", "teacher_entropy"),
        uses_scale=True,
    )
)
register_loss(
    LossEntry(
        name="contrastive",
        description="Weight of the contrastive loss.",
        implementation="tinyclip_edge.losses.contrastive:ContrastiveTerm",
        uses_teacher=False,
        uses_scale=True,
    )
)
register_loss(
    LossEntry(
        name="feature",
        description="Weight of the distance between the student's and the teacher's embeddings, "
        "mean of both towers; mse of unit vectors is small: CLIP-KD weighs it 2000.",
        implementation="tinyclip_edge.losses.feature:FeatureTerm",
        settings=FeatureSettings,
    )
)
