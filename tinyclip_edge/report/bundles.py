"""The edge bundles of a run's student: where they are and what their export measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import BundleError, DataError
from tinyclip_edge.report.drawing import number
from tinyclip_edge.report.record import RunRecord
from tinyclip_edge.runtime.bundle import MANIFEST, TOWERS, Manifest


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle folder and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def label(self) -> str:
        """Its folder's name and the precision it is opened in."""
        return f"{self.folder.name} {self.manifest.default_precision}"

    @property
    def verification(self) -> Mapping[str, Any]:
        """What export measured."""
        return self.manifest.verification


@dataclass(frozen=True, slots=True)
class Variant:
    """One precision of a bundle with its figures; None where export did not measure."""

    name: str
    identity: tuple[str, ...]  # precision and SHA-256 of both towers' files
    towers: int  # parameters of both, without the token embedding
    size: int  # bytes of both towers' files
    pairs: float | None
    recall: float | None  # text to image R@1, per cent
    drop: float | None  # of it against PyTorch, points
    stderr: float | None  # of the drop
    agreement: float | None  # same first answer as PyTorch, per cent
    cosine: float | None  # least of both towers against PyTorch
    image_ms: float | None
    text_ms: float | None


def bundles_of(record: RunRecord, beyond: Iterable[Path] = ()) -> list[Bundle]:
    """Return the bundles made from the run's finished student, by its weights' hash.

    They are looked for in ``bundles`` here and beside the run's folder, and in the folders
    ``beyond``, each a bundle or a folder of bundles; DataError for one that is none.
    """
    for folder in beyond:
        if not folder.is_dir():
            raise DataError(f"{folder} holds no bundles: there is no such folder")
    wanted = record.student_sha256
    if wanted is None:
        return []
    beside = record.folder.resolve().parent.parent / "bundles"
    roots = dict.fromkeys((Path("bundles").resolve(), beside, *(f.resolve() for f in beyond)))
    folders = dict.fromkeys(path.parent for root in roots for path in _manifests(root))
    return [bundle for folder in folders for bundle in _made_from(wanted, folder)]


def variants(bundle: Bundle) -> Iterator[Variant]:
    """Return the precisions of a bundle, in the manifest's order."""
    manifest, seen = bundle.manifest, bundle.verification
    for precision in manifest.precisions():
        paths = [manifest.tower_path(tower, precision) for tower in TOWERS]
        ranking = _in(seen, "precisions", precision, "ranking")
        image, text = (_in(seen, "precisions", precision, tower) for tower in TOWERS)
        cosines = [number(part.get("cosine_min")) for part in (image, text)]
        yield Variant(
            name=f"{bundle.folder.name} {precision}",
            identity=(precision, *(str(manifest.files[path]["sha256"]) for path in paths)),
            towers=sum(manifest.parameters[tower] for tower in TOWERS),
            size=sum(int(manifest.files[path]["bytes"]) for path in paths),
            pairs=number(seen.get("pairs")),
            recall=number(ranking.get("recall@1")),
            drop=number(ranking.get("recall@1_drop")),
            stderr=number(ranking.get("recall@1_stderr")),
            agreement=number(ranking.get("top1_agreement")),
            cosine=min((value for value in cosines if value is not None), default=None),
            image_ms=number(image.get("ms")),
            text_ms=number(text.get("ms")),
        )


def reference_recall(bundles: Iterable[Bundle]) -> float | None:
    """Return R@1 of the student in PyTorch as the first export that has it measured it."""
    found = (number(bundle.verification.get("reference_recall@1")) for bundle in bundles)
    return next((value for value in found if value is not None), None)


def _manifests(root: Path) -> list[Path]:
    found = (path for path in root.glob(f"*/{MANIFEST}") if not path.parent.name.startswith("."))
    own = root / MANIFEST
    return [*([own] if own.is_file() else []), *sorted(found)]


def _made_from(wanted: str, folder: Path) -> Iterator[Bundle]:
    try:
        manifest = Manifest.read(folder)
    except BundleError:  # another's; a report is no place to judge it
        return
    if manifest.source.get("sha256") == wanted:
        yield Bundle(folder, manifest)


def _in(content: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Go down tables that a manifest need not have."""
    for key in keys:
        inner = content.get(key)
        content = inner if isinstance(inner, Mapping) else {}
    return content
