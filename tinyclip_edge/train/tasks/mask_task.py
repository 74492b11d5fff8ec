"""Learn which units a student keeps: gates are sampled at each step and pulled to a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tinyclip_edge.config import MasksConfig, OptimConfig
from tinyclip_edge.data import Batch
from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance.equal import equal_masks
from tinyclip_edge.inheritance.gates import CLAMP, ClipGates, ClipMasks, TowerGates
from tinyclip_edge.inheritance.masked import FoldedClip, MaskedClip
from tinyclip_edge.inheritance.prune import PrunePlan
from tinyclip_edge.inheritance.sparsity import Lagrangian, sparsity_target
from tinyclip_edge.inheritance.units import ClipUnits
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.models.lean import can_trim
from tinyclip_edge.models.pruned import clip_units
from tinyclip_edge.train.schedule import MaskSteps
from tinyclip_edge.train.tasks.distill_task import DistillTask, TaskContext, Terms
from tinyclip_edge.train.tasks.encoders import EncodedPairs, PairEncoder, by_length, no_texts

GATES_EPS = 1e-8  # a neuron gate's gradient is about 1e-7 in a large model, far below optim.eps
BINS = 20  # in a histogram of log-alpha
SETTLE = 10  # steps of masks.lr by which log-alpha of all gates may shift to meet the target
HALVINGS = 20


class MaskedEncoder(PairEncoder):
    """Towers under masks: those passed to ``forward``, or the pruning masks."""

    def __init__(self, clip: LoadedClip, units: ClipUnits, masks: Callable[[], ClipMasks]) -> None:
        super().__init__(clip)
        self.masked = MaskedClip(clip.model, units)
        self._masks = masks
        self._trims = can_trim(clip.model)  # texts may be cut after their end token

    def forward(
        self, pixels: Tensor, tokens: Tensor, masks: ClipMasks | None = None
    ) -> EncodedPairs:
        """Return the features of both towers, scale and bias."""
        folded = self.masked.fold(self._masks() if masks is None else masks)
        image = folded.encode_image(pixels)
        text = self._encode_text(folded, tokens) if len(tokens) else no_texts(image)
        return self.encoded(image, text)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return ``[B, D]`` as the pruned model would."""
        return self.masked.encode_image(pixels, self._masks())

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return ``[B, D]`` as the pruned model would."""
        return self._encode_text(self.masked.fold(self._masks()), tokens)

    def _encode_text(self, folded: FoldedClip, tokens: Tensor) -> Tensor:
        if self._trims:
            return by_length(tokens, folded.encode_text)
        return folded.encode_text(F.pad(tokens, (0, self.context_length - tokens.shape[1])))


@dataclass(frozen=True, slots=True)
class MaskTarget:
    """Gates, and the target size of a stage."""

    gates: ClipGates
    keep: float  # share of the teacher's prunable parameters
    steps: MaskSteps
    config: MasksConfig
    uniform_shapes: bool = False
    steps_done: int = 0  # first step in the stage, if it is resumed


class MaskedTask(DistillTask):
    """Distillation with gates on every unit and a penalty on the number of open gates."""

    def __init__(
        self,
        student: LoadedClip,
        context: TaskContext,
        target: MaskTarget,
        *,
        before: DistillTask | None = None,
    ) -> None:
        super().__init__(student, context, before=before)
        self.keep, self.steps, self.config = target.keep, target.steps, target.config
        self.steps_done = target.steps_done  # of the stage
        self.shift = 0.0  # shift of every log-alpha by settle
        self.gates = target.gates.to(self._device)
        self.lagrangian = Lagrangian().to(self._device)
        self.beside["gates"], self.beside["lagrangian"] = self.gates, self.lagrangian
        self._uniform_shapes = target.uniform_shapes

    def make_encoder(self, student: LoadedClip) -> PairEncoder:
        """Return the towers under masks."""
        return MaskedEncoder(student, clip_units(student), self.pruning_masks)

    def groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Return the gates' group, and that of the multipliers, which are maximised."""
        fixed = {"weight_decay": 0.0, "constant_lr": True, "eps": GATES_EPS}
        prices = list(self.lagrangian.parameters())
        return [
            *super().groups(optim),
            {
                "params": list(self.gates.parameters()),
                "lr": self.config.lr,
                # No momentum: it would carry all gates past the target, where the penalty is zero.
                "betas": (0.0, optim.betas[1]),
                **fixed,
            },
            {"params": prices, "lr": self.config.lambda_lr, "maximize": True, **fixed},
        ]

    def encode(self, pixels: Tensor, tokens: Tensor) -> EncodedPairs:
        """Run the student under one sample of its gates."""
        self._distributed.same_noise(self._device)
        return EncodedPairs(*self.forward(pixels, tokens, self.gates.sample()))

    def terms(self, batch: Batch) -> Terms:
        """Return the loss of a batch with its parts, including a penalty on missing the target."""
        terms = super().terms(batch)
        target, sparsity = self.target(), self.gates.sparsity()
        price = self.lagrangian(sparsity, target)
        logged = {
            "sparsity": sparsity,
            "sparsity_target": sparsity.new_tensor(target),
            "lambda_1": self.lagrangian.lambda_1,
            "lambda_2": self.lagrangian.lambda_2,
        }
        parts = {**terms.parts, "sparsity_price": price}
        return replace(
            terms, loss=terms.loss + price, parts=parts, logged={**terms.logged, **logged}
        )

    def target(self) -> float:
        """Return the target sparsity of this step."""
        begin = max(self.config.start, 1 - self.gates.units.prunable / self.gates.prunable)
        aim = 1 - self.keep
        return sparsity_target(
            self.steps_done, start=min(begin, aim), target=aim, warmup=self.steps.rise
        )

    def after_step(self) -> None:
        """Clamp gates and scale to their valid range."""
        super().after_step()
        self.gates.clamp_()
        self.steps_done += 1

    def pruning_masks(self) -> ClipMasks:
        """Return the pruning masks, also used in evaluations: weakest units off, others soft."""
        return self.gates.binarised()

    def kept_share(self) -> float:
        """Return the share of the teacher's prunable parameters that pruning would leave now.

        Raises InheritanceError if no shape with equal layers has about that size.
        """
        uniform = self._uniform_shapes
        masks = equal_masks(self.gates) if uniform else self.pruning_masks()
        return PrunePlan.of(self.gates.units, masks).after.prunable / self.gates.prunable

    @torch.no_grad()
    def settle(self, tolerance: float) -> bool:
        """Shift all gates equally so that pruning ends within ``tolerance`` of the target.

        The order of units does not change. Returns False, without shifting, if the shift would
        exceed SETTLE steps: the gates have not learnt enough yet.
        """
        before = [a.clone() for a in self.gates.parameters()]
        low, high = -SETTLE * self.config.lr, SETTLE * self.config.lr
        for _ in range(HALVINGS):
            miss = self.size_share() - self.keep
            if abs(miss) <= tolerance / 2:
                break
            low, high = (low, self.shift) if miss > 0 else (self.shift, high)
            self._shift(before, (low + high) / 2)
        if self._is_met(tolerance):
            return True
        self._shift(before, 0.0)
        return self._is_met(tolerance)

    def _is_met(self, tolerance: float) -> bool:
        try:
            return abs(self.kept_share() - self.keep) <= tolerance
        except InheritanceError:
            return False

    def _shift(self, before: list[Tensor], shift: float) -> None:
        self.shift = shift
        for a, old in zip(self.gates.parameters(), before, strict=True):
            a.copy_(old + shift)
        self.gates.clamp_()

    def size_share(self) -> float:
        """Return ``kept_share`` for layers that may differ in shape."""
        units = PrunePlan.of(self.gates.units, self.pruning_masks()).after
        return units.prunable / self.gates.prunable

    def gate_summary(self) -> dict[str, Any]:
        """Return plain data about the gates: remaining units and log-alpha histograms by tower."""
        after = PrunePlan.of(self.gates.units, self.pruning_masks()).after
        towers = {"image": (self.gates.image, after.image), "text": (self.gates.text, after.text)}
        return {
            "kept": self.size_share(),
            **{
                name: {
                    "hidden": units.width,
                    "heads": list(units.heads),
                    "neurons": list(units.neurons),
                    "log_alpha": _histogram(gates),
                }
                for name, (gates, units) in towers.items()
            },
        }


@torch.no_grad()
def _histogram(gates: TowerGates) -> list[int]:
    """Count gates in BINS equal bins between the limits of log-alpha."""
    values = torch.cat([a.detach().float().cpu() for a in gates.parameters()])
    counts = torch.histc(values.clamp(-CLAMP, CLAMP), BINS, -CLAMP, CLAMP)
    return [int(count) for count in counts]
