"""The table of loss terms, and the configuration section generated from it.

To add a loss, add a :func:`register_loss` here and a file in ``tinyclip_edge/losses``. The table
contains no code: a term's class is named here and imported when a run starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from tinyclip_edge.config.loss_settings import AffinitySettings, FeatureSettings
from tinyclip_edge.config.section import Section
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.plugins import LOSSES, loaded_plugins

OTHER_LOSSES = ("sparsity_price",)  # terms of masks, without a weight of their own


class NoSettings(Section):
    """Settings of a term that has only a weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossEntry:
    """One loss term; ``loss.NAME`` is its weight, ``loss.NAME_KEY`` each of its settings."""

    name: str  # of the term in the configuration, in events and in the report
    default: float = 0.0  # weight
    description: str  # of the weight
    implementation: str  # "module:class", see tinyclip_edge.losses.objective.LossTerm
    settings: type[Section] = NoSettings
    logged: tuple[str, ...] = ()  # names of further values that the term logs
    uses_teacher: bool = True  # it compares with the teacher's embeddings
    uses_scale: bool = False  # its gradient reaches the student's logit scale
    uses_bias: bool = False  # its probabilities are sigmoids, as with the setting kind "sigmoid"
    uses_prefixes: bool = False  # it is also computed on prefixes of the embedding, see matryoshka
    uses_texts: bool = True  # it compares pictures with texts
    uses_pairs: bool = True  # it needs each picture's own text
    pair_settings: tuple[str, ...] = ()  # settings that need it if above 0

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
    """Weights of the loss terms, and how cosine similarities become logits."""

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
    teacher_logit_bias: float | None = Field(
        default=None,
        description="Added to the teacher's logits before a sigmoid; null: the teacher's own, "
        "which only models such as SigLIP have.",
    )
    student_logit_bias: float | Literal["teacher", "learned"] = Field(
        default="teacher",
        description="Added to the student's logits before a sigmoid: a fixed number, teacher (the "
        "teacher's, fixed), or learned (starts at the teacher's, or at -10 if it has none). Only "
        "terms with a sigmoid use it; the student then has it, and scores labels independently.",
    )
    matryoshka: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=list,
        description="Lengths of prefixes of the student's embedding, such as [64, 128], to which "
        "an index may be shortened: affinity, contrastive and sigmoid are averaged over the whole "
        "embedding and these prefixes, each against the teacher's whole embedding.",
    )

    def weight(self, term: str) -> float:
        """Return the weight of a term in the table."""
        return float(getattr(self, term))

    def settings(self, term: str) -> dict[str, Any]:
        """Return the settings of a term in the table. Raises ValidationError if they conflict."""
        settings = LOSS_TERMS[term].settings
        values = {key: getattr(self, f"{term}_{key}") for key in settings.model_fields}
        return settings.model_validate(values).model_dump()

    @property
    def needs_texts(self) -> list[str]:
        """Keys of terms that compare pictures with texts."""
        return [name for name, entry in self.active.items() if entry.uses_texts]

    @property
    def needs_pairs(self) -> list[str]:
        """Keys that need each picture's own text."""
        return [
            key
            for name, entry in self.active.items()
            for key in (
                [name]
                if entry.uses_pairs
                else [f"{name}_{at}" for at in entry.pair_settings if self.settings(name)[at]]
            )
        ]

    @property
    def uses_bias(self) -> bool:
        """Whether a term's probabilities are sigmoids of logits with a bias."""
        return bool(self._sigmoid_terms)

    @property
    def affinity_is_sigmoid(self) -> bool:
        """Whether the teacher's probabilities are sigmoids."""
        return "affinity" in self._sigmoid_terms

    @property
    def _sigmoid_terms(self) -> list[str]:
        return [
            name
            for name, entry in self.active.items()
            if entry.uses_bias or self.settings(name).get("kind") == "sigmoid"
        ]

    @property
    def active(self) -> dict[str, LossEntry]:
        """The terms with a weight."""
        return {name: entry for name, entry in LOSS_TERMS.items() if self.weight(name) > 0}

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, values: object) -> object:
        """Read ``NAME: {weight: 1, KEY: …}`` as ``NAME: 1`` and ``NAME_KEY: …``."""
        if not isinstance(values, dict):
            return values
        flat: dict[object, object] = {}
        for name, value in values.items():
            if name in LOSS_TERMS and isinstance(value, dict):
                nested = {f"{name}_{key}": item for key, item in value.items() if key != "weight"}
                conflicts = sorted(nested.keys() & values.keys())
                if conflicts:
                    raise ValueError(f"{conflicts[0]} appears twice; remove one")
                flat[name] = value.get("weight", 1.0)
                flat.update(nested)
            else:
                flat[name] = value
        return flat

    @model_validator(mode="after")
    def _check(self) -> LossConfig:
        if not self.active:
            *names, last = LOSS_TERMS
            raise ValueError(
                f"{', '.join(names)} and {last} are all 0; set at least one of them above 0"
            )
        for name in self.active:
            self.settings(name)
        if isinstance(self.student_logit_scale, float) and self.student_logit_scale <= 0:
            raise ValueError("student_logit_scale must be above 0")
        if self.matryoshka:
            self._check_matryoshka()
        return self

    def _check_matryoshka(self) -> None:
        if sorted(set(self.matryoshka)) != self.matryoshka:
            raise ValueError("matryoshka must be lengths from small to large, each once")
        if not any(entry.uses_prefixes for entry in self.active.values()):
            names = [name for name, entry in LOSS_TERMS.items() if entry.uses_prefixes]
            raise ValueError(f"matryoshka needs one of {', '.join(names)}; give one a weight")


_COMMON_FIELDS = dict(LossConfig.model_fields)


def register_loss(entry: LossEntry) -> LossEntry:
    """Add a term to the table and its keys to the schema. Raises ConfigError if a key exists."""
    for key in entry.fields:
        if key in LossConfig.model_fields:
            raise ConfigError(f"loss.{key} already exists; give the term another name")
    LOSS_TERMS[entry.name] = entry
    _rebuild()
    return entry


def register_installed_losses() -> None:
    """Add the terms of other installed packages; warn about broken ones."""
    for _, entry in loaded_plugins(LOSSES, LossEntry):
        register_loss(entry)


def unregister_loss(name: str) -> None:
    """Remove a term from the table and its keys from the schema."""
    del LOSS_TERMS[name]
    _rebuild()


def loss_names() -> tuple[str, ...]:
    """Return the names of all losses that events can contain, the total first."""
    terms = [name for entry in LOSS_TERMS.values() for name in (entry.name, *entry.logged)]
    return ("loss", *terms, *OTHER_LOSSES)


def _rebuild() -> None:
    """Update the schema with the fields of the table, and the sections around it."""
    fields = LossConfig.model_fields
    fields.clear()
    for entry in LOSS_TERMS.values():
        fields.update(entry.fields)
    fields.update(_COMMON_FIELDS)
    LossConfig.model_rebuild(force=True)
    for section in Section.__subclasses__():
        if any(field.annotation is LossConfig for field in section.model_fields.values()):
            section.model_rebuild(force=True)


register_loss(
    LossEntry(
        name="affinity",
        default=1.0,
        description="Weight of affinity mimicking.",
        implementation="tinyclip_edge.losses.affinity:affinity_term",
        settings=AffinitySettings,
        logged=(
            *("affinity_i2t", "affinity_t2i", "kl", "teacher_entropy"),
            *("first_teacher", "fusion_nll"),  # of several teachers, weighted per sample
        ),
        uses_scale=True,
        uses_prefixes=True,
        uses_pairs=False,
        pair_settings=("hard_negative", "hard_positive"),
    )
)
register_loss(
    LossEntry(
        name="contrastive",
        description="Weight of the contrastive loss.",
        implementation="tinyclip_edge.losses.contrastive:ContrastiveTerm",
        uses_teacher=False,
        uses_scale=True,
        uses_prefixes=True,
    )
)
register_loss(
    LossEntry(
        name="feature",
        description=(
            "Weight of the distance between the student's and the teacher's embeddings, "
            "averaged over both towers; the mse of unit vectors is small, so CLIP-KD "
            "uses a weight of 2000."
        ),
        implementation="tinyclip_edge.losses.feature:FeatureTerm",
        settings=FeatureSettings,
        uses_texts=False,
        uses_pairs=False,
    )
)
register_loss(
    LossEntry(
        name="sigmoid",
        description="Weight of SigLIP's loss: each pair of picture and text is a yes or a no.",
        implementation="tinyclip_edge.losses.sigmoid:SigmoidTerm",
        uses_teacher=False,
        uses_scale=True,
        uses_bias=True,
        uses_prefixes=True,
    )
)
register_loss(
    LossEntry(
        name="interactive",
        description="Weight of interactive contrast: the student's pictures among the teacher's "
        "texts, and vice versa; if widths differ, through a projector as for feature.",
        implementation="tinyclip_edge.losses.interactive:InteractiveTerm",
        uses_scale=True,
    )
)
