"""Measurements of a run before it starts, and which of them mean that it cannot work."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tinyclip_edge.data.checks import SourceCheck
from tinyclip_edge.data.pairs import BAD_SHARE, NAMED_KEYS
from tinyclip_edge.metrics import HEADLINES
from tinyclip_edge.train.tasks.probes import Probe

ALIKE = 0.9  # share of one caption or picture from which on nothing can be learnt
MANY = 0.1  # share of repeated, cut or plain items from which on they are reported
SIGMAS = 3  # standard errors above chance that a teacher must reach
SKILL = 0.05  # of the way from chance to 100 %, below which a teacher barely knows the data
UNKNOWN = 0.5  # share of unknown pieces from which on a tokenizer is the wrong one


@dataclass(frozen=True, slots=True)
class Finding:
    """One line; a run with one that refuses cannot succeed."""

    refuses: bool
    text: str


@dataclass(frozen=True, slots=True)
class TeacherCheck:
    """The teacher on the validation pairs; accuracies and chance are shares."""

    images: int
    labels: int
    accuracies: dict[str, float]
    chance: dict[str, float]
    seconds: float

    def judge(self) -> Finding | None:
        """Refuse a teacher whose accuracies are at chance; warn of one barely above it."""
        needed = {key: self._needed(key) for key in HEADLINES}
        figures = ", ".join(
            f"{key} {100 * self.accuracies[key]:.1f} % (chance {100 * self.chance[key]:.1f} %)"
            for key in HEADLINES
        )
        if any(self.accuracies[key] > needed[key] for key in HEADLINES):
            if any(self._skill(key) >= SKILL for key in HEADLINES):
                return None
            return Finding(
                False,
                f"the teacher barely knows data.val: {figures}; a student learns no more than its "
                f"teacher knows: take a teacher trained on such pairs, or let the captions teach "
                f"as well (loss.contrastive=1)",
            )
        if min(needed.values()) >= 1:
            return Finding(False, f"{self.labels} validation labels are too few to judge a teacher")
        return Finding(
            True,
            f"the teacher is at chance on data.val: {figures}; check teacher.pretrained, its "
            "tokenizer, and that captions belong to their images",
        )

    def _skill(self, key: str) -> float:
        """Return the share of the way from chance to every answer right."""
        chance = self.chance[key]
        return (self.accuracies[key] - chance) / (1 - chance) if chance < 1 else 0.0

    def _needed(self, key: str) -> float:
        chance, trials = self.chance[key], self.labels if key[0] == "t" else self.images
        return chance + SIGMAS * math.sqrt(chance * (1 - chance) / trials)


@dataclass(frozen=True, slots=True)
class StepCheck:
    """Real training steps of the first stage, of a student that is then discarded."""

    pairs: int  # of the batch
    seconds: float  # the teacher computes
    cached_seconds: float | None  # its features are there already
    finite: bool
    activations: int  # bytes kept for the backward pass
    loader_per_s: float  # pairs that the run's loader gives

    @property
    def pairs_per_s(self) -> float:
        """Pairs that the step could take at its fastest."""
        return self.pairs / min(self.seconds, self.cached_seconds or self.seconds)


@dataclass(frozen=True, slots=True)
class MemoryCheck:
    """Approximate bytes of a run, without what libraries need for themselves."""

    pictures: int
    features: int
    teacher: int
    student: int  # weights, gradients and AdamW's two moments
    activations: int
    available: int | None  # on the device; None where that is unknown
    shared: bool  # pictures and features lie in the device's memory, for it is the CPU's

    @property
    def device(self) -> int:
        """Bytes on the device that trains."""
        own = self.teacher + self.student + self.activations
        return own + (self.pictures + self.features if self.shared else 0)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All measurements; those that a refusal made pointless are None."""

    name: str
    teacher: str
    student: str | None
    device: str | None
    steps: int
    batch_size: int
    distinct: bool
    streamed: bool | None
    vocabulary: int | None
    source: SourceCheck
    accuracy: TeacherCheck | None = None
    step: StepCheck | None = None
    memory: MemoryCheck | None = None
    seconds: float | None = None  # of the whole run
    views: int = 0  # crops of a picture
    cache_bytes: int | None = None  # of the whole feature cache on disk; None: there is none
    probes: tuple[Probe, ...] = ()
    stopped: str | None = None  # the error that the run would begin with

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Refusals first."""
        findings = [
            *judge_source(self.source, self.vocabulary),
            *_judge_repeats(self),
            *_judge(self),
        ]
        return tuple(sorted(findings, key=lambda finding: not finding.refuses))

    @property
    def refused(self) -> bool:
        """Whether the run cannot work."""
        return any(finding.refuses for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        findings = [
            {"level": "refused" if one.refuses else "warning", "text": one.text}
            for one in self.findings
        ]
        return {"refused": self.refused, "findings": findings, **asdict(self)}


def judge_source(source: SourceCheck, vocabulary: int | None) -> list[Finding]:
    """Return the reasons against a run that the sample alone gives."""
    images, captions, texts = source.images, source.captions, list[str]()
    if source.bad > BAD_SHARE:
        named = ", ".join(source.undecodable[:NAMED_KEYS])
        bad = len(source.undecodable) + source.faulty
        of = max(source.read, source.sampled) + source.faulty
        what = "samples cannot be used" if source.faulty else "sampled images cannot be decoded"
        lines = "; ".join(line for line in (named, *source.loss_lines) if line)
        texts.append(f"{bad} of {of} {what} (at most {BAD_SHARE:.0%} may be skipped): {lines}")
    if captions.captions > 1 and captions.commonest >= ALIKE:
        texts.append(
            f"{captions.commonest:.0%} of the captions are all alike: '{captions.commonest_text}'"
        )
    elif captions.distinct > 1 and captions.distinct_ids == 1:
        texts.append(
            f"the tokenizer maps all {captions.distinct} different captions to the same ids"
        )
    elif captions.distinct > 1 and (captions.pieces <= 1 or captions.unknown > UNKNOWN):
        share = 1.0 if captions.pieces <= 1 else captions.unknown
        texts.append(f"the tokenizer maps {share:.0%} of the captions' words to unknown")
    if vocabulary is not None and captions.highest_id >= vocabulary:
        texts.append(
            f"the tokenizer gives id {captions.highest_id}, the teacher knows {vocabulary} tokens"
        )
    if images.images > 1 and images.commonest >= ALIKE:
        texts.append(f"{images.commonest:.0%} of the sampled images are one and the same")
    if images.images > 1 and images.plain >= ALIKE:
        texts.append(f"{images.plain:.0%} of the sampled images show a single colour")
    return [Finding(True, text) for text in texts]


def _judge_repeats(diagnosis: Diagnosis) -> list[Finding]:
    images, captions, lines = diagnosis.source.images, diagnosis.source.captions, list[str]()
    if images.repeated > MANY and images.commonest < ALIKE:
        lines.append(f"{images.repeated:.0%} of the sampled images repeat an earlier one")
    if BAD_SHARE < images.plain < ALIKE:
        lines.append(f"{images.plain:.0%} of the sampled images show a single colour")
    if not diagnosis.distinct and captions.repeated > MANY and captions.commonest < ALIKE:
        lines.append(
            f"{captions.repeated:.0%} of the captions repeat an earlier one; set "
            "data.batch_distinct=true, or they count as each other's negatives"
        )
    if diagnosis.source.repeated_keys:
        lines.append(
            f"{diagnosis.source.repeated_keys} pairs have the key of an earlier one; all are used, "
            "messages and caches cannot tell them apart"
        )
    lines += diagnosis.source.loss_lines
    if captions.cut > MANY:
        lines.append(
            f"{captions.cut:.0%} of the captions are cut at {captions.context_length} tokens"
        )
    return [Finding(False, text) for text in lines]


def _judge(diagnosis: Diagnosis) -> list[Finding]:
    findings: list[Finding] = []
    if diagnosis.stopped is not None:
        findings.append(Finding(True, diagnosis.stopped))
    findings += [Finding(p.refuses, p.sentence()) for p in diagnosis.probes if not p.agrees]
    if diagnosis.accuracy is not None and (finding := diagnosis.accuracy.judge()) is not None:
        findings.append(finding)
    if diagnosis.step is not None:
        if not diagnosis.step.finite:
            findings.append(Finding(True, "loss or gradient of the first steps is not finite"))
        step = diagnosis.step
        if step.loader_per_s < step.pairs_per_s:
            findings.append(
                Finding(
                    False,
                    f"the loader gives {step.loader_per_s:,.0f} pairs/s, the step could take "
                    f"{step.pairs_per_s:,.0f}; raise data.workers or data.memory_gb",
                )
            )
        if diagnosis.accuracy is None:
            findings.append(Finding(False, "teacher not measured: data.val is null"))
    memory = diagnosis.memory
    if memory is not None and memory.available is not None and memory.device > memory.available:
        findings.append(
            Finding(
                False,
                f"the run needs about {memory.device / 1e9:.1f} GB, {diagnosis.device} has "
                f"{memory.available / 1e9:.1f} GB; lower optim.batch_size or data.memory_gb",
            )
        )
    return findings
