"""A run's report: one HTML file that stands alone and asks no host for anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tinyclip_edge import __version__
from tinyclip_edge.errors import ConfigError, TinyClipError
from tinyclip_edge.report.bundles import Bundle, bundles_of
from tinyclip_edge.report.compared import comparison
from tinyclip_edge.report.curves import accuracy, training
from tinyclip_edge.report.gates import masks
from tinyclip_edge.report.html import Safe, element, joined, note, section
from tinyclip_edge.report.inheritance import heritage
from tinyclip_edge.report.overlay import overlay
from tinyclip_edge.report.plots import write_plots
from tinyclip_edge.report.record import EVENTS, RunRecord
from tinyclip_edge.report.sections import STATUS, about, again, cards
from tinyclip_edge.report.sensitivity import sensitivity
from tinyclip_edge.report.words import sentence

__all__ = ["WrittenReport", "leave_report", "write_report"]

PICTURES = 6  # queries on the page that a run leaves
# A browser then refuses what the page should not hold anyway.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """Where the page is, and the figures of its runs."""

    path: Path
    runs: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"report": str(self.path), "runs": list(self.runs)}


def write_report(
    runs: Sequence[Path],
    out: Path | None = None,
    *,
    pictures: int = 0,
    bundles: Sequence[Path] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> WrittenReport:
    """Write the page of a run, or an overlay of several, from what their folders hold.

    ``pictures`` queries are shown with what teacher, student and bundle find, which loads them;
    why they cannot, and what else is missing, is told and written down. ``bundles`` are looked at
    besides those in the usual places. Raises DataError for a folder that holds no run.
    """
    records = [RunRecord.read(Path(run)) for run in runs]
    for record in records:
        for missing in record.missing:
            tell(f"{record.folder}: {missing}")
    made = [bundles_of(record, bundles) for record in records]
    several = len(records) > 1
    path = out or records[0].folder / "report" / ("overlay.html" if several else "report.html")
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder; name a file in it")
    page = _many(records, made) if several else _one(records[0], made[0], pictures, tell)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + ".part")
        aside.write_text(page, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise ConfigError(f"report {path} cannot be written ({error.strerror or error})") from error
    found = (
        {**record.summary(), "bundles": [str(bundle.folder) for bundle in own]}
        for record, own in zip(records, made, strict=True)
    )
    return WrittenReport(path, tuple(found))


def leave_report(folder: Path, tell: Callable[[str], None], *, plots: bool = False) -> None:
    """Write what a run leaves by itself; a failure is told and spoils nothing.

    ``plots`` adds the PNGs of masks and stages.
    """
    for queries in (PICTURES, 0):  # once more without the models, should they be the reason
        try:
            write_report([folder], pictures=queries)
            if plots:
                write_plots(folder / EVENTS, folder / "report")
        # Fonts, disks, other matplotlibs: the student is finished, whatever it is.
        except Exception as error:
            told = " ".join(str(error).split())
            pictures = " with pictures" if queries else ""
            tell(f"report{pictures} not written ({type(error).__name__}: {told})")
        else:
            return


def _one(
    record: RunRecord, made: Sequence[Bundle], queries: int, tell: Callable[[str], None]
) -> str:
    parts = [
        ("about", "Run", about(record)),
        ("accuracy", "Accuracy", accuracy(record)),
        ("training", "Training", training(record)),
        ("inherited", "Inherited", heritage(record)),
        ("masks", "Masks", masks(record)),
        ("compared", "Bundles", comparison(record, made)),
        ("layers", "Layers", sensitivity(made)),
        ("pictures", "Pictures", _pictures(record, made, queries, tell) if queries else None),
        ("again", "Reproduce", again(record)),
    ]
    there = [(key, name, part) for key, name, part in parts if part is not None]
    start = record.start
    lead = f"{start.get('student', 'A student')} learns from {start.get('teacher', 'its teacher')}"
    unfinished = None if record.status == "done" else STATUS.get(record.status, record.status)
    head = [
        element("h1", record.name),
        element("p", lead, class_="lead"),
        *([element("p", sentence(unfinished), class_="warn")] if unfinished else []),
        *(element("p", sentence(missing), class_="warn") for missing in record.missing),
        _links([(key, name) for key, name, _ in there]),
    ]
    return _page(record.name, head, [cards(record), *(part for *_, part in there)])


def _many(records: Sequence[RunRecord], made: Sequence[Sequence[Bundle]]) -> str:
    title = f"{len(records)} runs"
    parts = overlay(records, made)
    head = [
        element("h1", title),
        *(
            element("p", f"{record.folder}: {missing}", class_="warn")
            for record in records
            for missing in record.missing
        ),
        _links([(key, name) for key, name, _ in parts]),
    ]
    return _page(title, head, [part for *_, part in parts])


def _pictures(
    record: RunRecord, made: Sequence[Bundle], queries: int, tell: Callable[[str], None]
) -> Safe:
    from tinyclip_edge.report.pictures import pictures

    try:
        return pictures(record, made, queries)
    except TinyClipError as error:
        told = f"{record.folder}: no pictures ({error})"
        tell(told)
        return section("pictures", "What they find", note(told))


def _links(targets: Sequence[tuple[str, str]]) -> Safe:
    items = (element("li", element("a", name, href=f"#{key}")) for key, name in targets)
    return element("nav", element("ul", *items), aria_label="Parts of this report")


def _page(title: str, head: Sequence[Safe], body: Sequence[Safe]) -> str:
    style = Safe(files(__package__).joinpath("style.css").read_text(encoding="utf-8"))
    metas = [
        element("meta", charset="utf-8"),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("link", rel="icon", href="data:,"),
        element("title", f"{title} · tinyclip-edge report"),
        element("style", style),
    ]
    page = [
        element("head", *metas),
        element(
            "body",
            element("header", *head),
            element("main", *body),
            element(
                "footer", f"Written by tinyclip-edge {__version__}, from the run folder alone."
            ),
        ),
    ]
    return "<!doctype html>\n" + element("html", joined(page), lang="en") + "\n"
