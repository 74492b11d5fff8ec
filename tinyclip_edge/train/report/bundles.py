"""Teacher, student and its edge bundles side by side, from figures that were measured before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import BundleError
from tinyclip_edge.runtime.bundle import MANIFEST, TOWERS, Manifest
from tinyclip_edge.train.drawing import Event, number
from tinyclip_edge.train.report.html import Safe, note, section, table
from tinyclip_edge.train.report.record import RunRecord
from tinyclip_edge.train.report.words import NONE, figures, millions, percent

COLUMNS = ("", "both towers", "MB", "R@1 in validation", "R@1 at export", "points lost",
           "top-1 agrees", "least cosine", "image ms", "text ms")  # fmt: skip
FLOAT32 = 4  # bytes


def bundles_of(record: RunRecord) -> list[tuple[Path, Manifest]]:
    """Return the bundles made from the run's finished student, by its weights' hash."""
    wanted, found = record.student_sha256, []
    if wanted is None:
        return []
    beside = record.folder.resolve().parent.parent / "bundles"
    for root in dict.fromkeys((Path("bundles").resolve(), beside)):
        for path in sorted(root.glob(f"*/{MANIFEST}")):
            try:
                manifest = Manifest.read(path.parent)
            except BundleError:  # another's; a report is no place to judge it
                continue
            if manifest.source.get("sha256") == wanted and not path.parent.name.startswith("."):
                found.append((path.parent, manifest))
    return found


def comparison(record: RunRecord, bundles: list[tuple[Path, Manifest]]) -> Safe | None:
    """Return the table; None without a bundle."""
    if not bundles:
        return None
    start = record.start
    teacher, student = (record.evaluations(who)[-1:] for who in ("teacher", "student"))
    verified = bundles[0][1].verification.get("reference_recall@1")
    rows = [
        ["teacher", *_model(start, "teacher_"), _recall(teacher), *[NONE] * 6],
        ["student", *_model(start, ""), _recall(student), _points(verified), *[NONE] * 5],
    ]
    for folder, manifest in bundles:
        rows += _bundle_rows(folder, manifest)
    pairs = figures(bundles[0][1].verification.get("pairs"))
    caption = (
        f"R@1: text to image; at export on {pairs} pairs, ms one input on the machine that "
        "exported; MB: 10^6 bytes, of teacher and student as float32"
    )
    told = ", ".join(str(folder) for folder, _ in bundles)
    return section("compared", "Teacher, student, bundle", table(COLUMNS, rows, caption),
                   note(f"Bundles: {told}"))  # fmt: skip


def _bundle_rows(folder: Path, manifest: Manifest) -> Iterator[list[str]]:
    towers = sum(manifest.parameters[tower] for tower in TOWERS)
    for precision in manifest.precisions():
        paths = [manifest.tower_path(tower, precision) for tower in TOWERS]
        size = sum(int(manifest.files[path]["bytes"]) for path in paths) / 1e6
        seen = manifest.verification
        ranking = _in(seen, "precisions", precision, "ranking")
        image, text = (_in(seen, "precisions", precision, tower) for tower in TOWERS)
        cosines = [number(part.get("cosine_min")) for part in (image, text)]
        least = min((value for value in cosines if value is not None), default=None)
        yield [
            f"{folder.name} {precision}",
            millions(towers),
            f"{size:.1f}",
            NONE,
            _points(ranking.get("recall@1")),
            figures(ranking.get("recall@1_drop")),
            _points(ranking.get("top1_agreement")),
            NONE if least is None else f"{least:.5f}",
            figures(image.get("ms")),
            figures(text.get("ms")),
        ]


def _in(content: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Go down tables that a manifest need not have."""
    for key in keys:
        inner = content.get(key)
        content = inner if isinstance(inner, Mapping) else {}
    return content


def _model(start: Event, whose: str) -> tuple[str, str]:
    towers, tokens = (number(start.get(f"{whose}{k}_parameters")) for k in ("encoder", "token"))
    size = NONE if towers is None or tokens is None else f"{FLOAT32 * (towers + tokens) / 1e6:.1f}"
    return millions(towers), size


def _recall(evaluations: list[Event]) -> str:
    return percent(evaluations[-1].get("t2i_r1")) if evaluations else NONE


def _points(value: object) -> str:
    found = number(value)
    return NONE if found is None else f"{found:.1f} %"
