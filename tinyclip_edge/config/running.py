"""Where and how a run works, without effect on what is learnt."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tinyclip_edge.config.section import Section


class RunSection(Section):
    """Device, memory, logging, saving."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: CUDA when there is a device, else the CPU."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Autocast of the student; logits and losses are float32 always."
    )
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="Pairs whose activations, the teacher's too, a process holds at once; the loss "
        "stays that of the whole batch, at the price of a second forward pass. null: all.",
    )
    grad_checkpointing: bool = Field(
        default=False,
        description="Compute activations of transformer blocks again in the backward pass instead "
        "of holding them.",
    )
    compile: bool = Field(
        default=False,
        description="Let torch.compile fuse what a transformer block does; not while masks learn.",
    )
    log_every: int = Field(default=10, ge=1, description="Steps between two lines of events.jsonl.")
    trackers: list[Literal["tensorboard", "wandb"]] = Field(
        default_factory=list,
        description="Where accelerate sends losses and accuracies as well: tensorboard (files in "
        "the run folder), wandb.",
    )
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
