"""What is known of a run before it starts, and which of it means that the run cannot work."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tinyclip_edge.data.checks import SourceCheck
from tinyclip_edge.data.pairs import BAD_SHARE, NAMED_KEYS
from tinyclip_edge.metrics import HEADLINES

ALIKE = 0.9  # share of one caption or picture from which nothing can be learnt
MANY = 0.1  # share of repeated, cut or plain items that is worth a word
SIGMAS = 3  # standard errors above chance that a teacher must reach
SKILL = 0.05  # of the way from chance to 100 %, below which a teacher barely knows the data
UNKNOWN = 0.5  # share of unknown pieces from which a tokenizer is the wrong one


@dataclass(frozen=True, slots=True)
class Finding:
    """One line; a run with one that refuses is not worth its time."""

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
        """Refuse a teacher that none of its accuracies tells from drawing lots.

        One that is hardly better is a warning.
        """
        needed = {key: self._needed(key) for key in HEADLINES}
        found = ", ".join(
            f"{key} {100 * self.accuracies[key]:.1f} % (chance {100 * self.chance[key]:.1f} %)"
            for key in HEADLINES
        )
        if any(self.accuracies[key] > needed[key] for key in HEADLINES):
            if any(self._skill(key) >= SKILL for key in HEADLINES):
                return None
            return Finding(
                False,
                f"the teacher barely knows data.val: {found}; a student learns no more than its "
                f"teacher knows: take a teacher trained on such pairs, or let the captions teach "
                f"as well (loss.contrastive=1)",
            )
        if min(needed.values()) >= 1:
            return Finding(False, f"{self.labels} validation labels are too few to judge a teacher")
        return Finding(
            True,
            f"the teacher is at chance on data.val: {found}; check teacher.pretrained, its "
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
    """Real training steps of the first stage; the student that took them is thrown away."""

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
    """Bytes that a run holds, roughly: what libraries need for themselves comes on top."""

    pictures: int
    features: int
    teacher: int
    student: int  # weights, gradients and AdamW's two moments
    activations: int
    available: int | None  # of the device; None when it does not tell
    shared: bool  # pictures and features lie in the device's memory, for it is the CPU's

    @property
    def device(self) -> int:
        """Bytes on the device that trains."""
        own = self.teacher + self.student + self.activations
        return own + (self.pictures + self.features if self.shared else 0)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was found; parts that a refusal made pointless are None."""

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
    stopped: str | None = None  # the error that the run would begin with

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Refusals first."""
        found = [*judge_source(self.source, self.vocabulary), *_judge_repeats(self), *_judge(self)]
        return tuple(sorted(found, key=lambda finding: not finding.refuses))

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
    """Return what the sample alone says against a run."""
    images, captions, found = source.images, source.captions, list[str]()
    if source.bad > BAD_SHARE:
        named = ", ".join(source.undecodable[:NAMED_KEYS])
        bad = len(source.undecodable) + source.faulty
        of = max(source.read, source.sampled) + source.faulty
        what = "samples cannot be used" if source.faulty else "sampled images cannot be decoded"
        lines = "; ".join(line for line in (named, *source.lost) if line)
        found.append(f"{bad} of {of} {what} (at most {BAD_SHARE:.0%} may be skipped): {lines}")
    if captions.captions > 1 and captions.commonest >= ALIKE:
        found.append(
            f"{captions.commonest:.0%} of the captions are all alike: '{captions.commonest_text}'"
        )
    elif captions.distinct > 1 and captions.distinct_ids == 1:
        found.append(
            f"the tokenizer maps all {captions.distinct} different captions to the same ids"
        )
    elif captions.distinct > 1 and (captions.pieces <= 1 or captions.unknown > UNKNOWN):
        share = 1.0 if captions.pieces <= 1 else captions.unknown
        found.append(f"the tokenizer maps {share:.0%} of the captions' words to unknown")
    if vocabulary is not None and captions.highest_id >= vocabulary:
        found.append(
            f"the tokenizer gives id {captions.highest_id}, the teacher knows {vocabulary} tokens"
        )
    if images.images > 1 and images.commonest >= ALIKE:
        found.append(f"{images.commonest:.0%} of the sampled images are one and the same")
    if images.images > 1 and images.plain >= ALIKE:
        found.append(f"{images.plain:.0%} of the sampled images show a single colour")
    return [Finding(True, text) for text in found]


def _judge_repeats(found: Diagnosis) -> list[Finding]:
    images, captions, lines = found.source.images, found.source.captions, list[str]()
    if images.repeated > MANY and images.commonest < ALIKE:
        lines.append(f"{images.repeated:.0%} of the sampled images repeat an earlier one")
    if BAD_SHARE < images.plain < ALIKE:
        lines.append(f"{images.plain:.0%} of the sampled images show a single colour")
    if not found.distinct and captions.repeated > MANY and captions.commonest < ALIKE:
        lines.append(
            f"{captions.repeated:.0%} of the captions repeat an earlier one; set "
            "data.batch_distinct=true, or they count as each other's negatives"
        )
    if found.source.repeated_keys:
        lines.append(
            f"{found.source.repeated_keys} pairs have the key of an earlier one; all are used, "
            "messages and caches cannot tell them apart"
        )
    lines += found.source.lost
    if captions.cut > MANY:
        lines.append(
            f"{captions.cut:.0%} of the captions are cut at {captions.context_length} tokens"
        )
    return [Finding(False, text) for text in lines]


def _judge(found: Diagnosis) -> list[Finding]:
    findings: list[Finding] = []
    if found.stopped is not None:
        findings.append(Finding(True, found.stopped))
    if found.accuracy is not None and (finding := found.accuracy.judge()) is not None:
        findings.append(finding)
    if found.step is not None:
        if not found.step.finite:
            findings.append(Finding(True, "loss or gradient of the first steps is not finite"))
        if found.step.loader_per_s < found.step.pairs_per_s:
            findings.append(
                Finding(
                    False,
                    f"the loader gives {found.step.loader_per_s:,.0f} pairs/s, the step could take "
                    f"{found.step.pairs_per_s:,.0f}; raise data.workers or data.memory_gb",
                )
            )
        if found.accuracy is None:
            findings.append(Finding(False, "teacher not measured: data.val is null"))
    memory = found.memory
    if memory is not None and memory.available is not None and memory.device > memory.available:
        findings.append(
            Finding(
                False,
                f"the run needs about {memory.device / 1e9:.1f} GB, {found.device} has "
                f"{memory.available / 1e9:.1f} GB; lower optim.batch_size or data.memory_gb",
            )
        )
    return findings
