"""The report of a run: one self-contained HTML file that makes no network requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import ConfigError, TinyClipError
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.lazy import lazy_names
from tinyclip_edge.paths import refuse_links
from tinyclip_edge.report.bundles import Bundle, bundles_of
from tinyclip_edge.report.compared import comparison
from tinyclip_edge.report.curves import accuracy, training
from tinyclip_edge.report.gates import masks
from tinyclip_edge.report.html import Safe, element, note, section
from tinyclip_edge.report.inheritance import inherited_map
from tinyclip_edge.report.overlay import overlay
from tinyclip_edge.report.page import page_links, report_page
from tinyclip_edge.report.plots import write_plots
from tinyclip_edge.report.record import EVENTS, RunRecord
from tinyclip_edge.report.sections import STATUS, about, again, cards, headline
from tinyclip_edge.report.sensitivity import sensitivity
from tinyclip_edge.report.standings import KEY, TITLE, StandingsPicture, standings_section
from tinyclip_edge.report.words import sentence

__all__ = ["WrittenReport", "write_final_report", "write_report"]

__getattr__ = lazy_names(__name__, {})  # old names

PICTURES = 6  # queries on the page that a run writes when it ends


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """The path of the page and a summary of each run on it."""

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
    standings: StandingsPicture | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> WrittenReport:
    """Write the page of one run, or an overlay of several, from their folders.

    ``pictures`` is the number of queries for which the page shows the first results of teacher,
    student and bundle; above 0, the models are loaded. ``bundles``: folders to search in addition
    to the usual ones. ``standings`` are added to a page of several runs. Whatever is missing or
    cannot be read is reported to ``notify`` and on the page. Raises DataError for a folder without
    a run.
    """
    records = [RunRecord.read(Path(run)) for run in runs]
    for record in records:
        for problem in record.missing:
            notify(f"{record.folder}: {problem}")
    bundles_by_run = [bundles_of(record, bundles) for record in records]
    multiple = len(records) > 1
    path = out or records[0].folder / "report" / ("overlay.html" if multiple else "report.html")
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder; give a file name in it")
    if out is None:
        if path.parent.is_symlink():
            raise ConfigError(f"{path.parent} is a link; name the page with --out")
        refuse_links(path.parent, ConfigError)
    content = (
        _overlay_page(records, bundles_by_run, standings)
        if multiple
        else _run_page(records[0], bundles_by_run[0], pictures, notify)
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write report {path} ({error.strerror or error})") from error
    with file_written_aside(path) as file:
        file.write(content.encode())
    summaries = (
        {**record.summary(), "bundles": [str(bundle.folder) for bundle in run_bundles]}
        for record, run_bundles in zip(records, bundles_by_run, strict=True)
    )
    return WrittenReport(path, tuple(summaries))


def write_final_report(folder: Path, notify: Callable[[str], None], *, plots: bool = False) -> None:
    """Write the report at the end of a run; a failure goes to ``notify`` and is not raised.

    ``plots`` adds the PNGs of masks and stages.
    """
    for queries in (PICTURES, 0):  # again without the models, in case they caused the failure
        try:
            write_report([folder], pictures=queries)
            if plots:
                write_plots(folder / EVENTS, folder / "report")
        # Fonts, disks, matplotlib versions: whatever fails here, the student is finished.
        except Exception as error:
            message = " ".join(str(error).split())
            pictures = " with pictures" if queries else ""
            notify(f"report{pictures} not written ({type(error).__name__}: {message})")
        else:
            return


def _run_page(
    record: RunRecord, bundles: Sequence[Bundle], queries: int, notify: Callable[[str], None]
) -> str:
    parts = [
        ("accuracy", "Accuracy", accuracy(record)),
        ("about", "Run", about(record)),
        ("training", "Training", training(record)),
        ("inherited", "Inherited", inherited_map(record)),
        ("masks", "Masks", masks(record)),
        ("compared", "Bundles", comparison(record, bundles)),
        ("layers", "Layers", sensitivity(bundles)),
        ("pictures", "Pictures", _pictures(record, bundles, queries, notify) if queries else None),
        ("again", "Reproduce", again(record)),
    ]
    sections = [(key, name, part) for key, name, part in parts if part is not None]
    start = record.start
    subtitle = (
        f"{start.get('student', 'A student')} distilled from {start.get('teacher', 'its teacher')}"
    )
    warning = None if record.status == "done" else STATUS.get(record.status, record.status)
    head = [
        element("h1", record.name),
        element("p", subtitle, class_="lead"),
        *headline(record),
        *([element("p", sentence(warning), class_="warn")] if warning else []),
        *(element("p", sentence(problem), class_="warn") for problem in record.missing),
        page_links([(key, name) for key, name, _ in sections]),
    ]
    return report_page(record.name, head, [cards(record), *(part for *_, part in sections)])


def _overlay_page(
    records: Sequence[RunRecord],
    bundles_by_run: Sequence[Sequence[Bundle]],
    standings: StandingsPicture | None,
) -> str:
    title = f"{len(records):,} runs"
    parts = overlay(records, bundles_by_run)
    if standings is not None:
        parts.insert(1, (KEY, TITLE, standings_section(standings)))
    head = [
        element("h1", title),
        *(
            element("p", f"{record.folder}: {problem}", class_="warn")
            for record in records
            for problem in record.missing
        ),
        page_links([(key, name) for key, name, _ in parts]),
    ]
    return report_page(title, head, [part for *_, part in parts])


def _pictures(
    record: RunRecord, bundles: Sequence[Bundle], queries: int, notify: Callable[[str], None]
) -> Safe:
    from tinyclip_edge.report.pictures import pictures

    try:
        return pictures(record, bundles, queries)
    except TinyClipError as error:
        message = f"{record.folder}: no pictures ({error})"
        notify(message)
        return section("pictures", "Search results", note(message))
