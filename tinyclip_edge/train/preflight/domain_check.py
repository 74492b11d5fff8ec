"""How well a teacher knows images without captions and their labels.

Shapes: N images, C labels, K common names, D embedding dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tinyclip_edge.collection.duplicates import MIN_SCORE, first_duplicates
from tinyclip_edge.collection.outliers import far_images
from tinyclip_edge.config.sources import TextsConfig
from tinyclip_edge.data import PairSource
from tinyclip_edge.data.checks import CHUNK, sample_pairs
from tinyclip_edge.data.texts import open_labels
from tinyclip_edge.errors import DataError, first_names
from tinyclip_edge.models import LoadedClip, TorchEmbedder
from tinyclip_edge.models.common_names import common_names
from tinyclip_edge.runtime.prompts import check_prompts, class_features, probabilities
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.train.preflight.finding import ALIKE, MANY, MIN_IMAGES, SIGMAS, SKILL, Finding
from tinyclip_edge.train.tasks.encoders import pixel_codec

LOOKED_AT = 512  # images of a source
COMMON_NAMES = 256  # names that compete with the labels
CLOSE = 0.5  # share of the best label's probability from which on the second best is close
MIN_CONFUSED = 3  # images from which on a pair of labels counts as confused
NAMED = 5  # labels or images listed in a message


@dataclass(frozen=True, slots=True)
class Recognition:
    """How often one of the labels fits an image better than common names do."""

    share: float  # of the images
    chance: float  # share of the labels among all names
    sigmas: float  # standard errors of the share above chance

    @property
    def skill(self) -> float:
        """The share rescaled so that chance is 0 and 100 % is 1."""
        return (self.share - self.chance) / (1 - self.chance)


@dataclass(frozen=True, slots=True)
class ConfusedLabels:
    """Two labels between which a teacher hesitates."""

    first: str
    second: str
    share: float  # of the images that are one of the two


@dataclass(frozen=True, slots=True)
class DomainCheck:
    """How a teacher judges images without captions and labels; shares are of the images."""

    images: int
    labels: int
    confidence: float  # median probability of the best label
    unused: tuple[str, ...]  # labels that are best for no image
    confused: tuple[ConfusedLabels, ...]  # the most confused first
    far: tuple[str, ...]  # names of images that are far from all labels
    repeated: float  # share nearly equal to an earlier image
    commonest: float  # share nearly equal to the centre of the largest group
    recognition: Recognition | None  # None: there are no other names to compare with
    notes: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Problems, refusals first."""
        return (*self._refusals(), *self._warnings())

    @property
    def refused(self) -> bool:
        """Whether nothing can be learnt from these images."""
        return any(finding.refuses for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)

    def _refusals(self) -> list[Finding]:
        texts = []
        if self.images < MIN_IMAGES:
            texts.append(f"{self.images:,} images are too few; give at least {MIN_IMAGES}")
        if self.commonest >= ALIKE:
            texts.append(f"{self.commonest:.0%} of the images are nearly the same")
        recognition = self.recognition
        if recognition is not None and self.commonest < ALIKE and recognition.sigmas < SIGMAS:
            texts.append(
                f"the teacher does not know this domain: for {recognition.share:.1%} of the images "
                f"one of the labels fits better than common names, {recognition.chance:.1%} by "
                "chance; use a teacher that was trained on such images, or other labels"
            )
        return [Finding(True, text) for text in texts]

    def _warnings(self) -> list[Finding]:
        texts = list(self.notes)
        recognition = self.recognition
        if recognition is not None and recognition.sigmas >= SIGMAS and recognition.skill < SKILL:
            texts.append(
                "the teacher knows little of this domain: for "
                f"{recognition.share:.1%} of the images "
                "one of the labels fits better than common names, "
                f"{recognition.chance:.1%} by chance"
            )
        if self.repeated > MANY and self.commonest < ALIKE:
            texts.append(f"{self.repeated:.0%} of the images are nearly equal to an earlier one")
        if self.unused:
            texts.append(
                f"the teacher never uses {len(self.unused):,} of {self.labels:,} labels: "
                f"{first_names(self.unused, NAMED)}"
            )
        if self.confused:
            pairs = [f"{pair.first} / {pair.second} ({pair.share:.0%})" for pair in self.confused]
            texts.append(f"the teacher confuses labels: {first_names(pairs, NAMED)}")
        if self.far:
            named = first_names(self.far, NAMED)
            texts.append(f"{len(self.far):,} images are far from all labels: {named}")
        return [Finding(False, text) for text in texts]


def check_labels(
    clip: LoadedClip, labels: Sequence[str], templates: Sequence[str]
) -> tuple[str, ...]:
    """Return a note on truncated prompts, if there are any.

    Raises DataError for one label, or two whose prompts are the same to the model.
    """
    if len(labels) < 2:
        raise DataError("one label leaves nothing to tell apart; give at least two")
    return check_prompts(TorchEmbedder(clip), labels, templates)


def look_at_features(
    clip: LoadedClip,
    images: Features,
    labels: Sequence[str],
    *,
    templates: Sequence[str] = ("{}",),
    names: Sequence[str] | None = None,
    classes: Features | None = None,
    firsts: npt.NDArray[np.intp] | None = None,
) -> DomainCheck:
    """Check images by a teacher's unit-norm features ``images [N, D]``, and their labels.

    ``names`` are those of the images. ``classes [C, D]``, the features of the labels, and ``firsts
    [N]``, the result of ``first_duplicates``, are passed if already computed. Raises DataError like
    ``check_labels``.
    """
    notes = check_labels(clip, labels, templates)
    embedder = TorchEmbedder(clip)
    others = common_names(COMMON_NAMES, without=labels)
    check = check_domain(
        images,
        class_features(embedder, labels, templates) if classes is None else classes,
        labels,
        scale=clip.logit_scale,
        bias=clip.logit_bias,
        common=class_features(embedder, others, templates) if others else None,
        names=names,
        firsts=firsts,
    )
    return replace(check, notes=notes)


def look_at_source(
    clip: LoadedClip, source: PairSource, texts: TextsConfig, *, workers: int, seed: int
) -> DomainCheck:
    """Look at a sample of the pictures of a source, with the labels of its texts.

    Pictures that cannot be decoded are left out. Raises DataError.
    """
    labels = open_labels(texts)
    check_labels(clip, labels, texts.templates)
    codec, stream = pixel_codec(clip), sample_pairs(source, seed, LOOKED_AT)
    names: list[str] = []
    features: list[Features] = []
    with ThreadPoolExecutor(workers) as pool, torch.inference_mode():
        while chunk := list(islice(stream, CHUNK)):
            decoded = pool.map(lambda pair: codec.decode(pair.image), chunk)
            images = {pair.key: image for pair, image in zip(chunk, decoded, strict=True)}
            usable = {key: image for key, image in images.items() if image is not None}
            if usable:
                pixels = codec.restore(torch.stack([*usable.values()]), clip.image_size)
                features.append(clip.model.encode_image(pixels, normalize=True).numpy())  # type: ignore[operator]
                names += usable
    if not features:
        raise DataError(f"{source.name} has no image that can be decoded")
    return look_at_features(
        clip, np.concatenate(features), labels, templates=texts.templates, names=names
    )


def check_domain(
    images: Features,
    classes: Features,
    labels: Sequence[str],
    *,
    scale: float,
    bias: float | None = None,
    common: Features | None = None,
    names: Sequence[str] | None = None,
    firsts: npt.NDArray[np.intp] | None = None,
) -> DomainCheck:
    """Check a domain by unit-norm features of its ``images [N, D]`` and labels ``classes [C, D]``.

    ``common [K, D]`` are features of names unrelated to the labels; without them, whether the
    teacher knows the domain is not judged. ``firsts``: see ``look_at_features``. Raises DataError
    without images.
    """
    if not len(images):
        raise DataError("there are no images to look at")
    cosines = images @ classes.T
    chances = probabilities(scale * cosines, bias)
    best = chances.argmax(axis=1)
    used = set(best.tolist())
    titles = [str(row) for row in range(len(images))] if names is None else names
    if firsts is None:
        firsts = first_duplicates(images, min_score=MIN_SCORE)
    groups, sizes = np.unique(firsts, return_counts=True)
    return DomainCheck(
        images=len(images),
        labels=len(labels),
        confidence=float(np.median(chances.max(axis=1))),
        unused=tuple(label for place, label in enumerate(labels) if place not in used),
        confused=tuple(_confused(chances, labels)),
        far=tuple(titles[row] for row in far_images(cosines.max(axis=1))),
        repeated=1 - len(sizes) / len(images),
        commonest=_near_centre(images, firsts == groups[sizes.argmax()]),
        recognition=None if common is None else recognition(images, classes, common),
    )


def recognition(images: Features, classes: Features, common: Features) -> Recognition:
    """Return how often one of the labels ``[C, D]`` wins against common names ``[K, D]``.

    The standard error is that of C names drawn from all without replacement: a teacher that does
    not know the domain has no reason to prefer the labels, though it may well prefer a few names
    for all images.
    """
    winners = (images @ np.concatenate([classes, common]).T).argmax(axis=1)
    labels, names = len(classes), len(classes) + len(common)
    wins = np.bincount(winners, minlength=names)
    chance = labels / names
    share = float(wins[:labels].sum() / len(images))
    deviation = math.sqrt(labels * (1 - chance) * wins.var(ddof=1)) / len(images)
    return Recognition(share, chance, (share - chance) / deviation if deviation else 0.0)


def _near_centre(images: Features, group: npt.NDArray[np.bool_]) -> float:
    """Return the share of images ``[N, D]`` that are nearly equal to the centre of their group.

    A group is a chain of nearly equal images, and its ends may differ: where a teacher hardly
    distinguishes the images of a domain, thousands of different ones can form one chain.
    """
    if len(images) < 2:
        return 0.0
    centre = images[group].mean(axis=0)
    near = images[group] @ (centre / np.linalg.norm(centre)) >= MIN_SCORE
    return float(near.sum() / len(images))


def _confused(chances: Features, labels: Sequence[str]) -> list[ConfusedLabels]:
    """Return pairs of labels that are best and close second best for many images."""
    order = np.argsort(-chances, axis=1, kind="stable")[:, :2]
    first, second = (np.take_along_axis(chances, order[:, [place]], axis=1) for place in (0, 1))
    close = (second >= CLOSE * first)[:, 0]
    wins = np.bincount(order[:, 0], minlength=len(labels))
    pairs, counts = np.unique(np.sort(order[close], axis=1), axis=0, return_counts=True)
    confused = [
        ConfusedLabels(labels[one], labels[two], float(count / (wins[one] + wins[two])))
        for (one, two), count in zip(pairs.tolist(), counts.tolist(), strict=True)
        if count >= MIN_CONFUSED
    ]
    return sorted((p for p in confused if p.share > MANY), key=lambda p: -p.share)
