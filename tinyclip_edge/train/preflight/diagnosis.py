"""Measurements of a run before it starts, and the problems they reveal."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tinyclip_edge.data.checks import SourceCheck
from tinyclip_edge.data.pairs import BAD_SHARE, NAMED_KEYS
from tinyclip_edge.metrics import HEADLINES
from tinyclip_edge.train.preflight.domain_check import DomainCheck
from tinyclip_edge.train.preflight.finding import ALIKE, MANY, SIGMAS, SKILL, Finding
from tinyclip_edge.train.tasks.probes import ProbeResult

UNKNOWN = 0.5  # share of unknown pieces above which the tokenizer is wrong


@dataclass(frozen=True, slots=True)
class TeacherCheck:
    """The teacher on the validation pairs; accuracies and chance are shares."""

    images: int
    labels: int
    accuracies: dict[str, float]
    chance: dict[str, float]
    seconds: float

    def judge(self) -> Finding | None:
        """Refuse a teacher whose accuracies are at chance; warn if they are low."""
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
                f"the teacher's accuracy on data.val is low: {figures}; a student learns only "
                "what its teacher knows: use a teacher trained on similar pairs, or learn from "
                "the captions too (loss.contrastive=1)",
            )
        if min(needed.values()) >= 1:
            return Finding(
                False, f"{self.labels:,} validation labels are too few to judge a teacher"
            )
        return Finding(
            True,
            f"the teacher is at chance level on data.val: {figures}; check teacher.pretrained, "
            "its tokenizer, and that captions match their images",
        )

    def _skill(self, key: str) -> float:
        """Return the accuracy rescaled so that chance is 0 and 100 % is 1."""
        chance = self.chance[key]
        return (self.accuracies[key] - chance) / (1 - chance) if chance < 1 else 0.0

    def _needed(self, key: str) -> float:
        chance, trials = self.chance[key], self.labels if key[0] == "t" else self.images
        return chance + SIGMAS * math.sqrt(chance * (1 - chance) / trials)


@dataclass(frozen=True, slots=True)
class StepCheck:
    """Real training steps of the first stage, with a student that is discarded afterwards."""

    pairs: int  # per batch
    seconds: float  # of a step in which the teacher computes its features
    cached_seconds: float | None  # of a step with cached features of the teacher
    finite: bool
    activations: int  # bytes stored for the backward pass
    loader_per_s: float  # throughput of the run's loader

    @property
    def pairs_per_s(self) -> float:
        """Largest number of pairs per second that the step can process."""
        return self.pairs / min(self.seconds, self.cached_seconds or self.seconds)


@dataclass(frozen=True, slots=True)
class MemoryCheck:
    """Approximate memory of a run in bytes, not counting the libraries' own."""

    pictures: int
    features: int
    teacher: int
    student: int  # weights, gradients and AdamW's two moments
    activations: int
    available: int | None  # on the device; None if unknown
    shared: bool  # the device is the CPU, so pictures and features are in its memory

    @property
    def device(self) -> int:
        """Bytes on the training device."""
        own = self.teacher + self.student + self.activations
        return own + (self.pictures + self.features if self.shared else 0)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All measurements; None where a refusal makes them pointless."""

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
    probes: tuple[ProbeResult, ...] = ()
    domain: DomainCheck | None = None  # of pictures without captions, whose texts are labels
    stopped: str | None = None  # the error with which the run would stop at its start

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Problems, refusals first."""
        findings = [
            *judge_source(self.source, self.vocabulary),
            *_judge_repeats(self),
            *(() if self.domain is None else self.domain.findings),
            *_judge(self),
        ]
        return tuple(sorted(findings, key=lambda finding: not finding.refuses))

    @property
    def refused(self) -> bool:
        """Whether the run cannot succeed."""
        return any(finding.refuses for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        findings = [
            {"level": "refused" if one.refuses else "warning", "text": one.text}
            for one in self.findings
        ]
        return {"refused": self.refused, "findings": findings, **asdict(self)}


def judge_source(source: SourceCheck, vocabulary: int | None) -> list[Finding]:
    """Return the problems that the sample alone reveals."""
    images, captions, texts = source.images, source.captions, list[str]()
    if source.bad > BAD_SHARE:
        named = ", ".join(source.undecodable[:NAMED_KEYS])
        bad = len(source.undecodable) + source.faulty
        of = max(source.read, source.sampled) + source.faulty
        what = "samples cannot be used" if source.faulty else "sampled images cannot be decoded"
        lines = "; ".join(line for line in (named, *source.loss_lines) if line)
        texts.append(f"{bad:,} of {of:,} {what} (at most {BAD_SHARE:.0%} may be skipped): {lines}")
    if captions.captions > 1 and captions.commonest >= ALIKE:
        texts.append(
            f"{captions.commonest:.0%} of the captions are identical: '{captions.commonest_text}'"
        )
    elif captions.distinct > 1 and captions.distinct_ids == 1:
        texts.append(
            f"the tokenizer maps all {captions.distinct:,} different captions to the same ids"
        )
    elif captions.distinct > 1 and (captions.pieces <= 1 or captions.unknown > UNKNOWN):
        share = 1.0 if captions.pieces <= 1 else captions.unknown
        texts.append(f"the tokenizer maps {share:.0%} of the captions' words to unknown")
    if vocabulary is not None and captions.highest_id >= vocabulary:
        texts.append(
            f"the tokenizer gives id {captions.highest_id}, but the teacher has {vocabulary} tokens"
        )
    if images.images > 1 and images.commonest >= ALIKE:
        texts.append(f"{images.commonest:.0%} of the sampled images are identical")
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
            "data.batch_distinct=true, otherwise they are used as negatives of each other"
        )
    if diagnosis.source.repeated_keys:
        lines.append(
            f"{diagnosis.source.repeated_keys:,} pairs have the same key as an earlier one; all "
            "are used, but messages and caches cannot distinguish them"
        )
    lines += diagnosis.source.loss_lines
    if captions.cut > MANY:
        lines.append(
            f"{captions.cut:.0%} of the captions are truncated to {captions.context_length} tokens"
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
                    f"the loader provides {step.loader_per_s:,.0f} pairs/s, but a step could use "
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
