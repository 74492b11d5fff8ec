"""Students as int8 classifiers of labels: bytes, and top-1 on labelled pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyclip_edge.runtime.protocol import ImageInput

NO_GATE = 100.0  # points of recall@1 that int8 may lose: the loss is measured here, not limited


@dataclass(frozen=True, slots=True)
class Labelled:
    """Pictures, the index of each one's label, all labels, and the templates of prompts."""

    images: Sequence[ImageInput]
    targets: Sequence[int]
    labels: tuple[str, ...]
    templates: tuple[str, ...] = ("{}",)

    def top1(self, model: str) -> float:
        """Return a MODEL's zero-shot top-1 in percent."""
        from tinyclip_edge.evaluation import open_embedder, zero_shot

        embedder = open_embedder(model)
        measured = zero_shot(embedder, self.images, self.targets, self.labels, self.templates)
        return round(100 * measured.top1, 2)


def export_classifier(student: Path, bundle: Path, labelled: Labelled, val: str) -> None:
    """Write a student's bundle with a classifier for the labels, unless it exists."""
    from tinyclip_edge.api.exporting import VerificationRequest, export
    from tinyclip_export.settings import Extras

    if (bundle / "manifest.json").exists():
        return
    export(
        student,
        bundle,
        verification=VerificationRequest(data=val, max_drop=NO_GATE),
        extras=Extras(labels=labelled.labels, templates=labelled.templates),
        progress=False,
    )


def measure_classifier(bundle: Path, labelled: Labelled) -> dict[str, Any]:
    """Return bytes, milliseconds and top-1 in percent of a bundle's int8 classifier."""
    import numpy as np

    from tinyclip_edge.runtime.classifier import EdgeClassifier
    from tinyclip_edge.tailoring.measure import milliseconds
    from tinyclip_export.bundle.label_classifier import classifier_path

    classifier = EdgeClassifier.load(bundle, precision="int8", threads=1)
    path = bundle / classifier_path("int8")
    answers = classifier.probabilities(labelled.images).argmax(axis=1)
    return {
        "bytes": path.stat().st_size,
        "ms": round(milliseconds(path, classifier.preprocess.height), 3),
        "top1": round(100 * float((answers == np.asarray(labelled.targets)).mean()), 2),
    }


def measured_student(student: Path, bundle: Path, labelled: Labelled, val: str) -> dict[str, Any]:
    """Export and measure a student, or read the record that an earlier call wrote beside it."""
    record = bundle.with_name(bundle.name + ".json")
    if not record.exists():
        export_classifier(student, bundle, labelled, val)
        measured = measure_classifier(bundle, labelled)
        measured["fp32_top1"] = labelled.top1(str(student))
        part = record.with_suffix(".part")
        part.write_text(json.dumps(measured))
        part.replace(record)
    stored: dict[str, Any] = json.loads(record.read_text())
    return stored
