"""Schema of a distillation run; every field states its unit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tinyclip_edge.config.data import DataConfig
from tinyclip_edge.config.loss import LossConfig
from tinyclip_edge.config.optim import OptimConfig
from tinyclip_edge.config.running import RunSection
from tinyclip_edge.config.section import Section
from tinyclip_edge.config.shrink import InheritConfig, MasksConfig, StageConfig, StudentConfig


class EnsembleMemberConfig(Section):
    """An additional teacher."""

    model: str = Field(min_length=1, description="As teacher.model.")
    pretrained: str | None = Field(default=None, description="As teacher.pretrained.")
    weight: float = Field(
        default=1.0,
        gt=0,
        description="Its weight in the mean, see loss.affinity_mean; the first teacher has 1.",
    )
    temperature: float = Field(default=1.0, gt=0, description="As teacher.temperature.")


class TeacherConfig(Section):
    """The model to imitate."""

    model: str = Field(
        min_length=1,
        description="starter-teacher, an open_clip name, hf-hub:NAME or the folder of a model.",
    )
    pretrained: str | None = Field(
        default=None,
        description=(
            "open_clip weight tag, such as laion2b_s34b_b79k; null when teacher.model "
            "already implies its weights."
        ),
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="Divides this teacher's logits; above 1 its affinities are softer.",
    )
    fusion: Literal["mean", "confidence", "learned"] = Field(
        default="mean",
        description="How affinity weights the teachers of an ensemble. mean: equally for all "
        "samples; confidence: for each picture and text, each teacher's weight is divided by its "
        "perplexity, the number of candidates that it wavers between; learned: by a gate, trained "
        "with the student to make each pair's own candidate likely.",
    )
    ensemble: list[EnsembleMemberConfig] = Field(
        default_factory=list,
        description="More teachers: the student imitates the weighted mean of all teachers' logits "
        "or probabilities, and inherits only from teacher.model.",
    )

    @model_validator(mode="after")
    def _check(self) -> TeacherConfig:
        if self.fusion != "mean" and not self.ensemble:
            raise ValueError(
                f"fusion {self.fusion} weights several teachers, and there is one; add others to "
                "teacher.ensemble, or set teacher.fusion=mean"
            )
        return self


class RunConfig(Section):
    """One distillation run."""

    name: str = Field(
        default="run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the run and of its folder under runs/.",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="Fixes random weights and the data order."
    )
    teacher: TeacherConfig = Field(description="The model to imitate.")
    student: StudentConfig = Field(default_factory=StudentConfig, description="The model to train.")
    inherit: InheritConfig = Field(
        default_factory=InheritConfig, description="What the student inherits from the teacher."
    )
    stages: list[StageConfig] = Field(
        default_factory=list,
        description=(
            "Stages in which the student shrinks, each starting from the previous one; "
            "none: a single stage to student.model or student.keep."
        ),
    )
    loss: LossConfig = Field(default_factory=LossConfig, description="Loss terms.")
    data: DataConfig = Field(description="Image-text pairs.")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="Optimizer and schedule.")
    masks: MasksConfig = Field(
        default_factory=MasksConfig,
        description="How masks are learnt if inherit.method is masks.",
    )
    run: RunSection = Field(default_factory=RunSection, description="Device, logging, saving.")

    @model_validator(mode="after")
    def _check_student(self) -> RunConfig:
        forms = [name for name in ("model", "keep") if getattr(self.student, name) is not None]
        masked = self.student.keep is not None or any(s.keep is not None for s in self.stages)
        if self.stages and forms:
            raise ValueError(
                f"stages and student.{forms[0]} exclude each other; set student.{forms[0]}=null"
            )
        if not self.stages and len(forms) != 1:
            problem = "exclude each other" if forms else "are missing: set one of them, or stages"
            raise ValueError(f"student.model and student.keep {problem}")
        if masked and self.inherit.method != "masks":
            raise ValueError("keep needs masks; set inherit.method=masks")
        if self.stages and not masked and self.inherit.method == "masks":
            raise ValueError(
                "no stage has masks: set keep in one of them, or inherit.method=uniform"
            )
        if self.student.uniform_shapes and self.inherit.method != "masks":
            raise ValueError(
                "student.uniform_shapes only applies to masks; set inherit.method=masks"
            )
        fresh = [tower for tower, mode in self.inherit.modes.items() if mode == "fresh"]
        if fresh and len(self.stages) > 1:
            raise ValueError(
                f"inherit.{fresh[0]} is fresh, so each stage would start with a random {fresh[0]} "
                "tower; use inherited, or one stage"
            )
        if self.inherit.method == "none" and len(self.stages) > 1:
            raise ValueError(
                "inherit.method is none, so each stage would start from random weights; use uniform"
            )
        return self

    @model_validator(mode="after")
    def _check_unpaired(self) -> RunConfig:
        sources = [source for source in self.data.sources if not source.is_paired]
        if sources and (keys := self.loss.needs_pairs):
            raise ValueError(
                f"loss.{keys[0]} needs each picture's own text, and data.images and data.texts are "
                f"not paired; set loss.{keys[0]}=0, or data.train to pairs"
            )
        if all(source.texts is not None for source in sources):
            return self
        if keys := self.loss.needs_texts:
            raise ValueError(
                f"loss.{keys[0]} compares pictures with texts, and there are none; set data.texts, "
                f"or loss.{keys[0]}=0 and loss.feature above 0"
            )
        if self.inherit.selection == "importance":
            raise ValueError(
                f"inherit.plan {self.inherit.plan} measures importance for affinities of pictures "
                "and texts, and there are no texts; set data.texts, or inherit.plan=evenly"
            )
        if self.inherit.text != "frozen":
            raise ValueError(
                f"without data.texts a text tower learns nothing, and inherit.text is "
                f"{self.inherit.text}; set it to frozen, so that the student has the teacher's"
            )
        return self

    @model_validator(mode="after")
    def _check_fusion(self) -> RunConfig:
        fusion = self.teacher.fusion
        if fusion != "mean" and not self.loss.weight("affinity"):
            raise ValueError(
                f"teacher.fusion {fusion} weights affinities, and loss.affinity is 0; set it above "
                "0, or teacher.fusion=mean"
            )
        if fusion != "learned":
            return self
        if self.loss.affinity_is_sigmoid:
            raise ValueError(
                "teacher.fusion learned needs loss.affinity_kind softmax, and it is sigmoid; use "
                "confidence"
            )
        if not all(source.is_paired for source in self.data.sources):
            raise ValueError(
                "teacher.fusion learned needs each picture's own text, and data.images and "
                "data.texts are not paired; use confidence"
            )
        return self

    @model_validator(mode="after")
    def _check_mapping(self) -> RunConfig:
        if self.inherit.is_mapped and self.inherit.method != "uniform":
            raise ValueError(
                f"inherit.plan mapped starts from selected weights, and inherit.method is "
                f"{self.inherit.method}; set it to uniform, or another plan"
            )
        if self.inherit.is_mapped and self.stages:
            raise ValueError(
                "inherit.plan mapped learns one mapping, for a run without stages; set "
                "student.model instead, or another plan"
            )
        return self

    @model_validator(mode="after")
    def _check_stages(self) -> RunConfig:
        keep_before: float | None = None
        for number, stage in enumerate(self.stages, 1):
            if stage.keep is None:
                if keep_before is not None:
                    raise ValueError(
                        f"stage {number} has a fixed shape after a stage with masks; put it "
                        "before them"
                    )
                continue
            if keep_before is not None and stage.keep >= keep_before:
                raise ValueError(
                    f"stage {number} keeps {stage.keep:g}, the previous one {keep_before:g}; a "
                    "stage cannot grow: order them from large to small"
                )
            keep_before = stage.keep
        return self
