"""Optimizer and schedule of a run."""

from __future__ import annotations

from pydantic import Field, model_validator

from tinyclip_edge.config.section import Section, as_steps


class OptimConfig(Section):
    """AdamW and its schedule."""

    lr: float = Field(default=1e-4, gt=0, description="Peak learning rate.")
    batch_size: int = Field(
        default=1024, ge=2, description="Pairs per optimizer step, over all processes."
    )
    steps: int = Field(
        default=10_000,
        ge=1,
        le=10**12,
        description="Optimizer steps; a run without stages, masks or a learnt mapping can be "
        "resumed with more.",
    )
    warmup: float = Field(
        default=0.1,
        ge=0,
        description="Linear warm-up: below 1 a share of all steps, otherwise a number of steps.",
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
        default=0.0,
        ge=0,
        le=1,
        description=("Final learning rate divided by the peak; the decay is a cosine."),
    )

    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay of a moving average of the student's weights, such as 0.999, lower in "
        "the first steps; evaluations, best/ and student/ use the average. It restarts with each "
        "stage, when masks are pruned and after inherit.map_steps; null: none.",
    )

    @property
    def warmup_steps(self) -> int:
        """Steps of the warm-up."""
        return as_steps(self.warmup, self.steps)

    @model_validator(mode="after")
    def _check(self) -> OptimConfig:
        if self.warmup_steps >= self.steps and self.warmup >= 1:
            raise ValueError(f"warmup ({self.warmup:g} steps) must be below steps ({self.steps})")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        return self
