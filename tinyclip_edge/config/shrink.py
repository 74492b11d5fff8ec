"""Sections that describe the student and how it is derived from its teacher."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from tinyclip_edge.config.importance import ImportanceConfig
from tinyclip_edge.config.section import Section

_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)")
_UNITS = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}


def _count(value: object) -> object:
    """Read 10M as 10,000,000; leave other values to the schema."""
    match = _COUNT.fullmatch(value) if isinstance(value, str) else None
    return round(float(match[1]) * _UNITS[match[2]]) if match else value


Count = Annotated[int, BeforeValidator(_count)]
CountOrPath = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[str, Field(min_length=1)], BeforeValidator(_count)
]


class StudentConfig(Section):
    """The model to train; ``stages`` may describe it as well."""

    model: str | dict[str, Any] | None = Field(
        default=None,
        description=(
            "Zoo name, or an open_clip model configuration written inline: omitted "
            "values are the teacher's, and so is the tokenizer unless text_cfg has "
            "CLIP's vocab_size of 49408 or another hf_tokenizer_name. An image tower in "
            "stages (ResNet, FastViT) lists the blocks of each in vision_cfg.layers."
        ),
    )
    keep: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Instead of a model: share of the teacher's prunable parameters (attention and "
        "feed-forward of both towers together) that learnt masks keep.",
    )
    uniform_shapes: bool = Field(
        default=False,
        description=(
            "Make masks end with equal head counts and feed-forward widths in all "
            "layers of a tower, so that the student is an ordinary open_clip and "
            "Hugging Face CLIP."
        ),
    )
    vocab: CountOrPath | None = Field(
        default=None,
        description="Tokens of the teacher that the student keeps, with their rows: a file with "
        "one text per line, for the tokens of these texts; or a number, such as 30k, for at most "
        "that many: special tokens and the commonest in the run's captions. null: all.",
    )


TowerMode: TypeAlias = Literal["inherited", "fresh", "frozen"]


class InheritConfig(Section):
    """What the student inherits from the teacher before step 1."""

    method: Literal["uniform", "masks", "none"] = Field(
        default="uniform",
        description="uniform: slices of the teacher's weights; masks: learnt while training, see "
        "student.keep; none: random weights.",
    )
    plan: Literal["published", "evenly", "importance", "mapped"] = Field(
        default="published",
        description=(
            "What uniform keeps. published: every (T // S)-th layer, front slices; "
            "evenly: evenly spaced layers including the first and last, front slices; "
            "importance: the layers, heads, neurons and channels that matter most for "
            "the affinities of calibration pairs; mapped: each weight is a combination of the "
            "teacher's, which starts as the selection map_from and is learnt in the first "
            "map_steps."
        ),
    )
    calibration: int = Field(
        default=256,
        ge=1,
        description="Pairs on which importance is measured, for each part of inherit.importance.",
    )
    importance: ImportanceConfig | None = Field(
        default=None,
        description="With plan importance: what it is measured on (general knowledge, a domain) "
        "and how much each counts. null: the run's own data.",
    )
    map_from: Literal["published", "evenly", "importance"] = Field(
        default="importance", description="With plan mapped: the plan that it starts from."
    )
    map_steps: float = Field(
        default=0.2,
        gt=0,
        description="With plan mapped: number of first steps, which train the mapping instead of "
        "the inherited weights; these then become ordinary weights, whose learning rate rises over "
        "optim.warmup. Below 1 a share of all steps, otherwise a number of steps.",
    )
    map_lr: float = Field(
        default=4e-3,
        gt=0,
        description="With plan mapped: about how far one step moves the coefficients that mix a "
        "unit from units or a layer from layers, a vector of length 1 at the start; AdamW's "
        "learning rate is this divided by the square root of their number, constant.",
    )

    image: TowerMode = Field(
        default="inherited",
        description="Weights of the image tower. inherited: slices of the teacher's, or what masks "
        "keep; fresh: random, in any architecture; frozen: the teacher's whole tower, untrained, "
        "whose settings student.model must leave out.",
    )
    text: TowerMode = Field(
        default="inherited", description="Weights of the text tower, as inherit.image."
    )

    @property
    def modes(self) -> dict[Literal["image", "text"], TowerMode]:
        """The mode of each tower."""
        return {"image": self.image, "text": self.text}

    @property
    def frozen(self) -> tuple[Literal["image", "text"], ...]:
        """Towers that are the teacher's and are not trained."""
        return tuple(tower for tower, mode in self.modes.items() if mode == "frozen")

    @property
    def is_mapped(self) -> bool:
        """Whether a mapping from the teacher's weights is learnt."""
        return self.plan == "mapped"

    @property
    def selection(self) -> Literal["published", "evenly", "importance"]:
        """The plan by which the weights of step 0 are selected."""
        return self.map_from if self.plan == "mapped" else self.plan

    @model_validator(mode="after")
    def _check_importance(self) -> InheritConfig:
        if self.importance is not None and (
            self.method != "uniform" or self.selection != "importance"
        ):
            raise ValueError("inherit.importance goes with inherit.plan=importance, or map_from")
        return self

    @model_validator(mode="after")
    def _check_modes(self) -> InheritConfig:
        for tower, mode in self.modes.items():
            if self.method == "none" and mode != "inherited":
                raise ValueError(
                    f"inherit.{tower}={mode} goes with inherit.method=uniform, not none"
                )
            if self.method == "masks" and mode == "fresh":
                raise ValueError(
                    f"inherit.{tower}=fresh goes with inherit.method=uniform: masks start from the "
                    "teacher's weights"
                )
        if self.image == self.text == "frozen":
            raise ValueError("both towers are frozen, so there is nothing to train; inherit one")
        if self.image == self.text == "fresh":
            raise ValueError("both towers are fresh; set inherit.method=none instead")
        return self


class MasksConfig(Section):
    """Hard-concrete gates: learning rates, target sparsity, pruning; shares are of a stage."""

    lr: float = Field(
        default=0.02,
        gt=0,
        description="AdamW's learning rate for the gates' log-alpha, constant; about how far one "
        "step moves them while the target is missed (an open and a closed gate are 6.2 apart).",
    )
    lambda_lr: float = Field(
        default=0.02, gt=0, description="Rate at which the Lagrange multipliers rise, constant."
    )
    start: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description=("Target sparsity at a stage's first step, as a share."),
    )
    warmup: float = Field(
        default=0.5,
        ge=0,
        description=(
            "Steps over which the target rises to its final value: below 1 a share of "
            "the steps before pruning, otherwise a number of steps."
        ),
    )
    prune: float = Field(
        default=0.4,
        gt=0,
        description=(
            "When gates are pruned: below 1 a share of the stage's steps, otherwise a "
            "number of steps."
        ),
    )
    extra: float = Field(
        default=0.2,
        ge=0,
        description=(
            "How many steps pruning may be postponed while the target is missed, at the "
            "expense of the steps after it: below 1 a share of the stage's steps, "
            "otherwise a number of steps."
        ),
    )
    tolerance: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description=(
            "Largest distance from the target at which it counts as met, as a share of "
            "the parameters."
        ),
    )
    rewarm: float = Field(
        default=0.1,
        ge=0,
        description=(
            "Linear warm-up of the learning rate after pruning, from a tenth of the "
            "cosine schedule: below 1 a share of the remaining steps, otherwise a "
            "number of steps."
        ),
    )
    log_every: int = Field(
        default=25, ge=1, description="Steps between lines about gates in events.jsonl."
    )


class StageConfig(Section):
    """One stage: the student it ends with, its length, and settings other than the run's."""

    keep: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of the teacher's prunable parameters that masks keep.",
    )
    student: str | dict[str, Any] | None = Field(
        default=None,
        description=(
            "Instead of keep: zoo name or open_clip model configuration, inherited "
            "uniformly from the previous stage."
        ),
    )
    steps: int | None = Field(default=None, ge=1, description="Optimizer steps; null: optim.steps.")
    samples: Count | None = Field(
        default=None,
        ge=1,
        description=("Instead of steps: number of pairs, rounded up to whole batches."),
    )
    lr: float | None = Field(default=None, gt=0, description="Peak learning rate; null: optim.lr.")
    warmup: float | None = Field(
        default=None, ge=0, description="Warm-up, as optim.warmup; null: optim.warmup."
    )
    prune: float | None = Field(
        default=None, gt=0, description="Pruning step, as masks.prune; null: masks.prune."
    )

    @model_validator(mode="after")
    def _check(self) -> StageConfig:
        if (self.keep is None) == (self.student is None):
            raise ValueError("set either keep or student")
        if self.steps is not None and self.samples is not None:
            raise ValueError("set steps or samples, not both")
        return self
