"""Schema of a distillation run; every field says its unit."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Base of all sections: unknown keys and loose types are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TeacherConfig(Section):
    """The model that is imitated."""

    model: str = Field(
        min_length=1,
        description="starter-teacher, an open_clip name, hf-hub:NAME or the folder of a model.",
    )
    pretrained: str | None = Field(
        default=None,
        description="open_clip weight tag, such as laion2b_s34b_b79k; null when MODEL has it.",
    )


class StudentConfig(Section):
    """The model that is trained."""

    model: str | dict[str, Any] = Field(
        description="Zoo name, or an open_clip model configuration written inline."
    )


class InheritConfig(Section):
    """What the student takes from the teacher before step 1."""

    method: Literal["uniform", "none"] = Field(
        default="uniform",
        description="uniform: slices of the teacher's weights; none: random weights.",
    )
    layers: Literal["published", "evenly"] = Field(
        default="published",
        description="Layers kept. published: every (T // S)-th; evenly: spaced, both ends kept.",
    )


class LossConfig(Section):
    """Weights of the loss terms and the factors on cosine similarities."""

    affinity: float = Field(default=1.0, ge=0, description="Weight of affinity mimicking.")
    contrastive: float = Field(default=0.0, ge=0, description="Weight of the contrastive loss.")
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

    @model_validator(mode="after")
    def _check(self) -> LossConfig:
        if self.affinity == 0 and self.contrastive == 0:
            raise ValueError("affinity and contrastive are both 0; give one of them a weight")
        if isinstance(self.student_logit_scale, float) and self.student_logit_scale <= 0:
            raise ValueError("student_logit_scale must be above 0")
        return self


class DataConfig(Section):
    """Pairs to learn from and to validate on."""

    train: str | list[str] = Field(
        min_length=1,
        description="starter:train, or shards (.tar, .tar.gz): path, glob, {000..009} or a list.",
    )
    val: str | list[str] | None = Field(
        default=None, description="Pairs for the evaluation during the run, same forms; null: none."
    )
    val_limit: int = Field(default=2000, ge=2, description="At most so many validation pairs.")
    batch_distinct: bool = Field(
        default=True,
        description="No two pairs of a batch share a concept (they would be false negatives).",
    )
    cache_teacher: bool = Field(
        default=True,
        description="Keep the teacher's features of pictures and captions once computed.",
    )
    workers: int = Field(default=2, ge=1, le=256, description="Threads that decode images.")
    memory_gb: float = Field(
        default=4.0,
        ge=0,
        description="Gigabytes (1e9 bytes) for decoded pictures, 3 * size^2 bytes each; a source "
        "that needs more is streamed, and the teacher's features are not kept. 0: always streamed.",
    )


class OptimConfig(Section):
    """AdamW and its schedule."""

    lr: float = Field(default=1e-4, gt=0, description="Peak learning rate.")
    batch_size: int = Field(
        default=1024, ge=2, description="Pairs per optimizer step, over all processes."
    )
    steps: int = Field(default=10_000, ge=1, description="Optimizer steps.")
    warmup: float = Field(
        default=0.1,
        ge=0,
        description="Linear warm-up: share of all steps below 1, else a number of steps.",
    )
    weight_decay: float = Field(
        default=0.2,
        ge=0,
        description="Not applied to vectors (norms, biases) and to the logit scale.",
    )
    betas: tuple[float, float] = Field(
        default=(0.9, 0.98),
        strict=False,
        description="AdamW's decay rates of the first and second moment.",
    )
    eps: float = Field(default=1e-6, gt=0, description="AdamW's epsilon.")
    grad_clip: float | None = Field(
        default=1.0, gt=0, description="Largest norm of the gradient; null: not clipped."
    )
    final_lr_ratio: float = Field(
        default=0.0, ge=0, le=1, description="Last learning rate over the peak; cosine in between."
    )

    @property
    def warmup_steps(self) -> int:
        """Steps of the warm-up."""
        return round(self.warmup * self.steps) if self.warmup < 1 else round(self.warmup)

    @model_validator(mode="after")
    def _check(self) -> OptimConfig:
        if self.warmup_steps >= self.steps and self.warmup >= 1:
            raise ValueError(f"warmup ({self.warmup:g} steps) must be below steps ({self.steps})")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        return self


class RunSection(Section):
    """Where and how the run works, without effect on what is learnt."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: CUDA when there is a device, else the CPU."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Autocast of the student; logits and losses are float32 always."
    )
    log_every: int = Field(default=10, ge=1, description="Steps between two lines of events.jsonl.")
    eval_every: int = Field(
        default=0,
        ge=0,
        description="Steps between evaluations; 0: only before the first and at the end.",
    )
    save_every: int = Field(
        default=0,
        ge=0,
        description="Steps between checkpoints; 0: only at the end and on interruption.",
    )
    keep: int = Field(default=2, ge=1, description="Newest checkpoints kept.")


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
    teacher: TeacherConfig = Field(description="The model that is imitated.")
    student: StudentConfig = Field(description="The model that is trained.")
    inherit: InheritConfig = Field(
        default_factory=InheritConfig, description="What the student takes from the teacher."
    )
    loss: LossConfig = Field(default_factory=LossConfig, description="Loss terms.")
    data: DataConfig = Field(description="Pairs to learn from.")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="Optimizer and schedule.")
    run: RunSection = Field(default_factory=RunSection, description="Device, logging, saving.")
