"""``tailor``: a verified student of one's own pictures, from a folder without captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinyclip_edge.errors import DataError
from tinyclip_edge.paths import is_file

if TYPE_CHECKING:
    from tinyclip_edge.config import RunConfig
    from tinyclip_edge.models import LoadedClip
    from tinyclip_edge.tailoring.contest import Contest
    from tinyclip_edge.tailoring.outcome import ExportedFiles, TailorReport
    from tinyclip_edge.tailoring.pictures import PictureList
    from tinyclip_edge.tailoring.preparation import Prepared
    from tinyclip_edge.tailoring.request import TailorRequest
    from tinyclip_edge.tailoring.search import Candidates
    from tinyclip_edge.tailoring.shapes import ImageShape, TeacherTower
    from tinyclip_edge.tailoring.work import WorkFolder

Say = Callable[[str], None]
RUNS = Path("runs")
CLASSIFIER = "classifier"
HELD_OUT = "held-out"
EXPORT = "export"  # record of the bundle, begun before it is


def tailor(  # noqa: PLR0913 - a public call, whose options have names
    images: str | Path,
    labels: str | Path,
    out: str | Path = "bundles/mine",
    *,
    texts: str | Path | None = None,
    templates: Sequence[str] = ("{}",),
    teacher: str = "starter-teacher",
    max_mb: float = 8.0,
    max_ms: float = 5.0,
    minutes: float = 20.0,
    candidates: int = 8,
    form: str = CLASSIFIER,
    general: str | None = None,
    seed: int = 0,
    work: str | Path | None = None,
    resume: bool = False,
    callback: Say = lambda text: None,
) -> TailorReport:
    """Train and export the best student of a folder of pictures that fits into a budget.

    ``images``: a folder, without captions; ``labels`` and ``texts``: files with one a line.
    ``form``: "classifier", whose budget is that of one file for these labels, or "towers", that of
    both towers. ``general``: a MODEL to compare with. ``work``: folder of the runs,
    runs/tailor-NAME by default; ``resume`` goes on with what a killed call has left there.
    ``callback`` gets lines about the work. Names, numbers and paths are checked before torch is
    imported, everything else before training. Raises a TinyClipError; nothing is at ``out`` then.
    """
    from tinyclip_edge.tailoring.request import check_models, read_request
    from tinyclip_edge.tailoring.work import REQUEST, VERSION, WorkFolder
    from tinyclip_export.bundle.staging import check_destination

    request = read_request(
        images,
        labels,
        texts,
        out=Path(out),
        templates=tuple(templates),
        teacher=teacher,
        max_mb=max_mb,
        max_ms=max_ms,
        minutes=minutes,
        candidates=candidates,
        form=form,
        general=general,
        seed=seed,
    )
    check_models(request)
    folder = WorkFolder(RUNS / f"tailor-{request.out.name}" if work is None else Path(work))
    exporting = resume and (folder.path / f"{EXPORT}.json").is_file()
    check_destination(request.out, force=exporting)
    record = {"version": VERSION, **request.as_dict()}
    try:
        with folder.held(request.as_dict(), resume=resume):
            start = _begin(request, folder, callback)
            folder.write(REQUEST, record)
            return _finish(start, callback)
    except OSError as error:
        raise DataError(
            f"{error.filename or folder.path}: {error.strerror or error}; repeat the command with "
            "--resume once that is mended"
        ) from error


@dataclass(frozen=True, slots=True)
class _Start:
    """What is known before the teacher reads the pictures."""

    request: TailorRequest
    work: WorkFolder
    listed: PictureList
    teacher: LoadedClip
    tower: TeacherTower
    found: Candidates

    def config(self, shape: ImageShape, pictures: int, steps: int) -> RunConfig:
        """Return the run of a shape."""
        from tinyclip_edge.tailoring.recipes import run_config

        return run_config(
            self.request, self.work, self.tower, shape, pictures=pictures, steps=steps
        )

    @property
    def again(self) -> str:
        """The command that goes on."""
        return "the same `tinyclip-edge tailor` with --resume"


def _begin(request: TailorRequest, work: WorkFolder, say: Say) -> _Start:
    """List the pictures and the candidates, and write both when they are good."""
    from tinyclip_edge.models import load_clip
    from tinyclip_edge.tailoring.measure import teacher_tower
    from tinyclip_edge.tailoring.pictures import PictureList, list_pictures
    from tinyclip_edge.tailoring.preparation import check_labels
    from tinyclip_edge.tailoring.search import Candidates, check_disk, find_candidates

    pictures, search = work.read("pictures"), work.read("candidates")
    known = pictures is not None and search is not None
    if pictures is not None and known:
        listed = PictureList.from_dict(pictures)
        listed.check_unchanged()
    else:
        listed = list_pictures(request.images)
        say(f"{len(listed.pictures):,} pictures in {request.images}")
    teacher = load_clip(request.teacher)
    tower = teacher_tower(teacher)
    check_labels(request, teacher, say)
    if search is not None and known:
        return _Start(request, work, listed, teacher, tower, Candidates.from_dict(search))
    found = find_candidates(request, teacher, tower, say)
    check_disk(found, tower, teacher, work.path)
    work.write("pictures", listed.as_dict())
    work.write("candidates", found.as_dict())
    return _Start(request, work, listed, teacher, tower, found)


def _finish(start: _Start, say: Say) -> TailorReport:
    """Encode, train, export and report."""
    from tinyclip_edge.tailoring.page import write_page, write_plot
    from tinyclip_edge.tailoring.preparation import prepare

    config = start.config(next(iter(start.found.costs)), len(start.listed.pictures), 1)
    prepared = prepare(start.request, start.work, start.listed, start.teacher, config, say)
    contest = _train(start, prepared, say)
    start.listed.check_unchanged()
    shipped = _export(start, contest, say)
    report = _report(start, prepared, contest, shipped)
    write_page(report, report.page)
    write_plot(report, report.page.with_suffix(".png"))
    start.work.write("report", report.as_dict())
    return report


def _train(start: _Start, prepared: Prepared, say: Say) -> Contest:
    """Train the candidates by successive halving, from where an earlier call stood."""
    from tinyclip_edge.tailoring.contest import Contest
    from tinyclip_edge.tailoring.judging import judge
    from tinyclip_edge.tailoring.runs import CandidateRuns

    shapes = {shape.name: shape for shape in start.found.costs}
    contest = Contest(
        list(shapes), {shape.name: cost.mb for shape, cost in start.found.costs.items()}
    )
    contest.restore(start.work.read("contest"))
    trainer = CandidateRuns(
        start.work,
        lambda name, steps: start.config(shapes[name], prepared.train, steps),
        lambda folder: judge(start.request, prepared, str(folder)),
        start.again,
    )

    def save() -> None:
        start.work.write("contest", contest.as_dict())

    contest.run(trainer, start.request.minutes, save, say, start.listed.check_unchanged)
    return contest


def _export(start: _Start, contest: Contest, say: Say) -> ExportedFiles:
    """Write the winner's bundle, verified on the held-out pictures.

    A bundle that an earlier call has written is kept, one that it may have been writing replaced.
    """
    from tinyclip_edge.api.exporting import VerificationRequest, export
    from tinyclip_edge.tailoring.outcome import ExportedFiles
    from tinyclip_export.bundle.label_classifier import classifier_path
    from tinyclip_export.settings import Extras

    request, work = start.request, start.work
    begun = work.read(EXPORT)
    if begun is not None and begun.get("files") and is_file(request.out / "manifest.json"):
        return ExportedFiles(begun["files"], begun["ms"])
    work.write(EXPORT, {"out": str(request.out)})
    exported = export(
        work.runs / contest.winner,
        request.out,
        verification=VerificationRequest(data=str(work.table(HELD_OUT))),
        extras=Extras(labels=request.labels, templates=request.templates),
        trim_vocab=work.lines("texts") if start.found.trims else None,
        force=begun is not None,
        callback=say,
        progress=False,
    )
    names: tuple[str, ...] = tuple(paths["int8"] for paths in exported.towers.values())
    if request.form == CLASSIFIER:
        names = (classifier_path("int8"),)
    ms = exported.verification["precisions"]["int8"]["image"]["ms"]
    shipped = ExportedFiles({name: exported.files[name] for name in names}, ms)
    work.write(EXPORT, {"out": str(request.out), "files": shipped.files, "ms": ms})
    return shipped


def _report(
    start: _Start, prepared: Prepared, contest: Contest, shipped: ExportedFiles
) -> TailorReport:
    from tinyclip_edge.tailoring.agreement import agreement
    from tinyclip_edge.tailoring.judging import judge, judge_general
    from tinyclip_edge.tailoring.outcome import BUNDLE, TEACHER, Entry, TailorReport

    request, work, found = start.request, start.work, start.found
    own = agreement(prepared.chances, prepared.chances, prepared.targets)
    entries = [
        Entry(TEACHER, TEACHER, request.teacher, found.teacher.mb, found.teacher.ms, None, own)
    ]
    for shape, cost in found.costs.items():
        name = shape.name
        steps, judged = contest.steps[name], contest.results.get(name)
        entries.append(Entry(name, "candidate", str(shape), cost.mb, cost.ms, steps, judged))
    judged = judge(request, prepared, str(request.out))
    entries.append(Entry(BUNDLE, BUNDLE, contest.winner, shipped.mb, shipped.ms, agreement=judged))
    if request.general is not None:
        entries.append(judge_general(request, prepared))
    return TailorReport(
        bundle=request.out,
        ship=tuple(shipped.files),
        work=work.path,
        page=work.path / "report.html",
        winner=contest.winner,
        run=work.runs / contest.winner,
        max_mb=request.max_mb,
        max_ms=request.max_ms,
        train_pictures=prepared.train,
        held_out=len(prepared.held_out),
        entries=tuple(entries),
        notes=prepared.notes,
        commands=_commands(start, contest),
    )


def _commands(start: _Start, contest: Contest) -> tuple[str, ...]:
    """Return the commands that train and export the winner by hand."""
    request, work = start.request, start.work
    configuration = work.configurations / f"{contest.winner}.yaml"
    export = [
        f"tinyclip-edge export {work.runs / contest.winner} --int8 --labels LABELS",
        f"--data {work.table(HELD_OUT)}",
        *([f"--trim-vocab {work.lines('texts')}"] if start.found.trims else []),
        f"--out {request.out}",
    ]
    return (
        f"tinyclip-edge distill {configuration} --out runs/{contest.winner}",
        " ".join(export),
    )
