"""Settings of a run that do not affect what the student learns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tinyclip_edge.config.section import Section


class RunSection(Section):
    """Device, memory, logging, saving."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: CUDA if there is a device, else the CPU."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32",
        description=("Autocast of the student; logits and losses are always float32."),
    )
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Pairs whose activations, including the teacher's, a process holds at once; "
            "the loss is still computed over the whole batch, at the cost of a second "
            "forward pass. null: all."
        ),
    )
    grad_checkpointing: bool = Field(
        default=False,
        description=(
            "Recompute activations of transformer blocks in the backward pass instead "
            "of storing them."
        ),
    )
    compile: bool = Field(
        default=False,
        description="Compile transformer blocks with torch.compile; not while masks are learnt.",
    )
    log_every: int = Field(default=10, ge=1, description="Steps between lines of events.jsonl.")
    trackers: list[Literal["tensorboard", "wandb"]] = Field(
        default_factory=list,
        description="Trackers that also receive losses and accuracies: tensorboard (files in "
        "the run folder), wandb.",
    )
    eval_every: int = Field(
        default=0,
        ge=0,
        description="Steps between evaluations; 0: only before the first step and at the end.",
    )
    save_every: int = Field(
        default=0,
        ge=0,
        description="Steps between checkpoints; 0: only at the end and on interruption.",
    )
    keep: int = Field(default=2, ge=1, description="Number of newest checkpoints to keep.")
