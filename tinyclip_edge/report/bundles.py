"""The bundles exported from a run's student, with the figures measured at export."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import BundleError, DataError
from tinyclip_edge.paths import model_name
from tinyclip_edge.report.drawing import number
from tinyclip_edge.report.record import RunRecord
from tinyclip_edge.runtime.bundle import MANIFEST, TOWERS, Manifest


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle folder and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """Name of the folder."""
        return model_name(self.folder)

    @property
    def label(self) -> str:
        """Name of the folder and the default precision."""
        return f"{self.name} {self.manifest.default_precision}"

    @property
    def verification(self) -> Mapping[str, Any]:
        """Figures measured at export."""
        return self.manifest.verification


@dataclass(frozen=True, slots=True)
class Variant:
    """One precision of a bundle with its figures; None if export did not measure one."""

    name: str
    identity: tuple[str, ...]  # precision and SHA-256 of both towers' files
    towers: int  # parameters of both, without the token embedding
    size: int  # bytes of both towers' files
    pairs: float | None
    recall: float | None  # text to image R@1, per cent
    drop: float | None  # in recall against PyTorch, points
    stderr: float | None  # standard error of the drop, points
    agreement: float | None  # queries with PyTorch's top-1 result, per cent
    cosine: float | None  # lowest cosine of either tower with PyTorch
    image_ms: float | None
    text_ms: float | None


def bundles_of(record: RunRecord, extra: Iterable[Path] = ()) -> list[Bundle]:
    """Return the bundles whose manifest has the hash of the run's finished student.

    Searches ``bundles`` in the working directory, ``bundles`` next to the folder of runs, and the
    ``extra`` folders, each a bundle or a folder of bundles. Raises DataError for an extra
    folder that does not exist.
    """
    for folder in extra:
        if not folder.is_dir():
            raise DataError(f"bundle folder {folder} does not exist")
    student_sha256 = record.student_sha256
    if student_sha256 is None:
        return []
    sibling = record.folder.resolve().parent.parent / "bundles"
    roots = dict.fromkeys((Path("bundles").resolve(), sibling, *(f.resolve() for f in extra)))
    folders = dict.fromkeys(path.parent for root in roots for path in _manifests(root))
    return [bundle for folder in folders for bundle in _matching_bundle(student_sha256, folder)]


def variants(bundle: Bundle) -> Iterator[Variant]:
    """Return the precisions of a bundle, in the manifest's order."""
    manifest, verification = bundle.manifest, bundle.verification
    for precision in manifest.precisions():
        paths = [manifest.tower_path(tower, precision) for tower in TOWERS]
        ranking = _nested(verification, "precisions", precision, "ranking")
        image, text = (_nested(verification, "precisions", precision, tower) for tower in TOWERS)
        cosines = [number(part.get("cosine_min")) for part in (image, text)]
        yield Variant(
            name=f"{bundle.name} {precision}",
            identity=(precision, *(str(manifest.files[path]["sha256"]) for path in paths)),
            towers=sum(manifest.parameters[tower] for tower in TOWERS),
            size=sum(int(manifest.files[path]["bytes"]) for path in paths),
            pairs=number(verification.get("pairs")),
            recall=number(ranking.get("recall@1")),
            drop=number(ranking.get("recall@1_drop")),
            stderr=number(ranking.get("recall@1_stderr")),
            agreement=number(ranking.get("top1_agreement")),
            cosine=min((value for value in cosines if value is not None), default=None),
            image_ms=number(image.get("ms")),
            text_ms=number(text.get("ms")),
        )


def reference_recall(bundles: Iterable[Bundle]) -> float | None:
    """Return R@1 of the student in PyTorch from the first bundle that has it, per cent."""
    recalls = (number(bundle.verification.get("reference_recall@1")) for bundle in bundles)
    return next((value for value in recalls if value is not None), None)


def _manifests(root: Path) -> list[Path]:
    paths = (path for path in root.glob(f"*/{MANIFEST}") if not path.parent.name.startswith("."))
    root_manifest = root / MANIFEST
    return [*([root_manifest] if root_manifest.is_file() else []), *sorted(paths)]


def _matching_bundle(student_sha256: str, folder: Path) -> Iterator[Bundle]:
    try:
        manifest = Manifest.read(folder)
    except BundleError:  # for `check` to report
        return
    if manifest.source.get("sha256") == student_sha256:
        yield Bundle(folder, manifest)


def _nested(content: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return the table at a path of keys; empty where a key is absent."""
    for key in keys:
        inner = content.get(key)
        content = inner if isinstance(inner, Mapping) else {}
    return content
