"""EdgeClassifier: images to label probabilities from one ONNX file, without text tower or torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import BundleError, DataError, did_you_mean
from tinyclip_edge.json_text import parse_json
from tinyclip_edge.paths import expanded
from tinyclip_edge.runtime.bundle import Manifest, bundle_file
from tinyclip_edge.runtime.confidence import Confidence, Threshold, decision, tempered
from tinyclip_edge.runtime.familiarity import Classification
from tinyclip_edge.runtime.preprocess import Preprocess
from tinyclip_edge.runtime.protocol import Features, ImageInput
from tinyclip_edge.runtime.session import OnnxSession

OUTPUT = "probabilities"
LABELS_FILE = "labels.json"
METADATA = "tinyclip_classifier"  # key in the file's metadata
METADATA_VERSION = 1
_BATCH = 32


class EdgeClassifier:
    """Classifier of fixed labels; make one with ``EdgeClassifier.load``."""

    def __init__(
        self,
        graph: OnnxSession,
        facts: Mapping[str, Any],
        confidence: Confidence | None = None,
        *,
        independent: bool = False,
    ) -> None:
        self._graph, self._independent = graph, independent
        self.labels: tuple[str, ...] = tuple(facts["labels"])
        self.templates: tuple[str, ...] = tuple(facts["templates"])
        self.confidence = confidence
        self.preprocess = Preprocess.from_config(facts["preprocessor"])

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        precision: str | None = None,
        threads: int | None = None,
        low_memory: bool = False,
    ) -> EdgeClassifier:
        """Open the classifier in a bundle folder, or a classifier's ONNX file on its own.

        ``precision`` is for a folder; None takes the bundle's default. A file on its own has no
        calibrated threshold. Raise BundleError for other paths.
        """
        path = Path(expanded(path))
        confidence, independent = None, False
        if path.is_dir():
            manifest = Manifest.read(path)
            confidence = Confidence.of(manifest, precision or manifest.default_precision)
            independent = manifest.logit_bias is not None
            path = _in_bundle(path, manifest, precision)
        elif not path.is_file():
            raise BundleError(f"no classifier {path}; `tinyclip-edge export --labels` writes one")
        graph = OnnxSession(path, threads=threads, low_memory=low_memory)
        facts = _facts(path, graph.metadata)
        if facts["precise_int8"]:
            graph = OnnxSession(path, threads=threads, low_memory=low_memory, precise_int8=True)
        graph.require(["pixel_values"], OUTPUT)
        return cls(graph, facts, confidence, independent=independent)

    def probabilities(self, images: Sequence[ImageInput]) -> Features:
        """Return float32 ``[N, C]``; raise DataError for a broken image."""
        if isinstance(images, (str, bytes, Path)):
            raise DataError("probabilities takes a list of images, not a single one")
        rows = [
            self._graph.run(
                OUTPUT, pixel_values=self.preprocess.batch(images[i : i + _BATCH], first=i)
            )
            for i in range(0, len(images), _BATCH)
        ]
        values = np.concatenate(rows) if rows else np.empty((0, len(self.labels)), np.float32)
        if values.shape != (len(images), len(self.labels)) or not np.isfinite(values).all():
            raise BundleError(f"{self._graph.path} did not return probabilities for its labels")
        return values

    def classify(self, image: ImageInput, *, threshold: Threshold = None) -> Classification:
        """Return (label, probability), most probable first; see ``EdgeCLIP.classify``."""
        decided = decision(self.confidence, self.labels, self.templates, threshold)
        chances: npt.NDArray[np.floating[Any]] = self.probabilities([image])
        if decided.temperature != 1:
            chances = tempered(chances, decided.temperature, independent=self._independent)
        order = np.argsort(-chances[0], kind="stable")
        rows = [(self.labels[i], float(chances[0][i])) for i in order]
        return Classification(rows, unknown=decided.unknown(rows[0][1]))


def _in_bundle(folder: Path, manifest: Manifest, precision: str | None) -> Path:
    entry = manifest.extras.get("classifier")
    files = entry.get("files") if isinstance(entry, Mapping) else None
    if not isinstance(files, Mapping):
        raise BundleError(
            f"bundle {folder} has no classifier; `tinyclip-edge export --labels FILE` writes one"
        )
    selected = precision or manifest.default_precision
    name = files.get(selected)
    if not isinstance(name, str):
        raise BundleError(
            f"bundle {folder} has no {selected} classifier{did_you_mean(selected, files)}"
        )
    manifest.verify_files(folder, only=[name])
    return bundle_file(folder, name)


def _facts(path: Path, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        facts = parse_json(metadata[METADATA])
        version, labels = facts["version"], facts["labels"]
        valid = isinstance(facts["preprocessor"], dict) and isinstance(facts["precise_int8"], bool)
        for texts in (labels, facts["templates"]):
            valid &= isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path} is not a classifier: its metadata has no labels; `tinyclip-edge export "
            "--labels FILE` writes one"
        ) from error
    if version != METADATA_VERSION:
        raise BundleError(
            f"{path}: classifier version {version!r} is not {METADATA_VERSION}, the one this "
            "tinyclip-edge reads; upgrade tinyclip-edge"
        )
    if not valid or not labels:
        raise BundleError(f"{path} is not a classifier: its metadata has an unexpected form")
    result: Mapping[str, Any] = facts
    return result
