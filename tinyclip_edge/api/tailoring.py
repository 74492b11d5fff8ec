"""``tailor``: a verified student for your own pictures, from a folder without captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinyclip_edge.errors import DataError

if TYPE_CHECKING:
    from tinyclip_edge.tailoring.preparation import Prepared
    from tinyclip_edge.tailoring.report import ExportedFiles, TailorReport
    from tinyclip_edge.tailoring.request import TailorRequest
    from tinyclip_edge.tailoring.state import Tailoring
    from tinyclip_edge.tailoring.successive_halving import SuccessiveHalving
    from tinyclip_edge.tailoring.work import WorkFolder

Say = Callable[[str], None]


def tailor(  # noqa: PLR0913 - a public call with named options
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
    larger_patches: bool = False,
    form: str = "classifier",
    general: str | None = None,
    seed: int = 0,
    work: str | Path | None = None,
    resume: bool = False,
    callback: Say = lambda text: None,
) -> TailorReport:
    """Train and export the best student for a folder of pictures that fits a budget.

    ``images``: a folder, without captions; ``labels`` and ``texts``: files with one per line.
    ``form``: what the budget is for: "classifier", one file for these labels, or "towers", both
    towers. ``larger_patches``: also try vision transformers with patches of 1.5 and 2 times the
    side. ``general``: a MODEL to compare with. ``work``: folder of the runs, runs/tailor-NAME by
    default; ``resume`` continues what a killed call left there.
    ``callback`` gets lines of progress. Names, numbers and paths are checked before torch is
    imported, everything else before training. Raises a TinyClipError, and ``out`` is not written.
    """
    from tinyclip_edge.tailoring.request import check_models, read_request
    from tinyclip_edge.tailoring.work import EXPORT, REQUEST, VERSION, WorkFolder
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
        larger_patches=larger_patches,
        form=form,
        general=general,
        seed=seed,
    )
    check_models(request)
    folder = WorkFolder.of(request.out) if work is None else WorkFolder(Path(work))
    exporting = resume and (folder.path / f"{EXPORT}.json").is_file()
    check_destination(request.out, force=exporting)
    record = {"version": VERSION, **request.as_dict()}
    try:
        with folder.held(request.as_dict(), resume=resume):
            tailoring = begin(request, folder, callback)
            folder.write(REQUEST, record)
            return _finish(tailoring, callback)
    except OSError as error:
        raise DataError(
            f"{error.filename or folder.path}: {error.strerror or error}; fix this, then repeat "
            "the command with --resume"
        ) from error


def begin(request: TailorRequest, work: WorkFolder, say: Say) -> Tailoring:
    """List the pictures and the candidates, and write both lists once they pass all checks."""
    from tinyclip_edge.models import load_clip
    from tinyclip_edge.tailoring.pictures import PictureList, list_pictures
    from tinyclip_edge.tailoring.search import Candidates, check_disk, find_candidates
    from tinyclip_edge.tailoring.state import Tailoring
    from tinyclip_edge.tailoring.tower_kinds import teacher_tower
    from tinyclip_edge.train.preflight.domain_check import check_labels

    candidates = work.parsed("candidates", Candidates.from_dict)
    listed = work.parsed("pictures", PictureList.from_dict)
    if listed is None or candidates is None:
        listed, candidates = list_pictures(request.images), None
        say(f"{len(listed.pictures):,} pictures in {request.images}")
    else:
        listed.check_unchanged()
    teacher = load_clip(request.teacher)
    tower = teacher_tower(teacher, larger_patches=request.larger_patches)
    check_labels(teacher, request.labels, request.templates)
    if candidates is None:
        candidates = find_candidates(request, teacher, tower, say)
        check_disk(candidates, tower, teacher, work.path)
        work.write("pictures", listed.as_dict())
        work.write("candidates", candidates.as_dict())
    return Tailoring(request, work, listed, teacher, tower, candidates)


def _finish(tailoring: Tailoring, say: Say) -> TailorReport:
    """Encode, train, export and report."""
    from tinyclip_edge.api.tailored_bundle import export_winner
    from tinyclip_edge.tailoring.page import write_page, write_plot
    from tinyclip_edge.tailoring.preparation import prepare
    from tinyclip_edge.tailoring.work import REPORT

    config = tailoring.config(
        next(iter(tailoring.candidates.costs)), len(tailoring.listed.pictures), 1
    )
    prepared = prepare(
        tailoring.request, tailoring.work, tailoring.listed, tailoring.teacher, config, say
    )
    halving = _train(tailoring, prepared, say)
    tailoring.listed.check_unchanged()
    shipped = export_winner(tailoring, prepared, halving.winner, say)
    report = _report(tailoring, prepared, halving, shipped)
    write_page(report, report.page)
    write_plot(report, report.page.with_suffix(".png"))
    tailoring.work.write(REPORT, report.as_dict())
    return report


def _train(tailoring: Tailoring, prepared: Prepared, say: Say) -> SuccessiveHalving:
    """Train the candidates by successive halving, from where an earlier call stopped."""
    from tinyclip_edge.tailoring.evaluation import evaluate
    from tinyclip_edge.tailoring.runs import CandidateRuns
    from tinyclip_edge.tailoring.successive_halving import SuccessiveHalving
    from tinyclip_edge.tailoring.work import TRAINING

    shapes = {shape.name: shape for shape in tailoring.candidates.costs}
    halving = SuccessiveHalving(
        list(shapes), {shape.name: cost.mb for shape, cost in tailoring.candidates.costs.items()}
    )
    tailoring.work.parsed(TRAINING, halving.restore)
    trainer = CandidateRuns(
        tailoring.work,
        lambda name, steps: tailoring.config(shapes[name], prepared.train, steps),
        lambda folder: evaluate(tailoring.request, prepared, str(folder)),
    )

    def save() -> None:
        tailoring.work.write(TRAINING, halving.as_dict())

    halving.run(trainer, tailoring.request.minutes, save, say, tailoring.listed.check_unchanged)
    return halving


def _report(
    tailoring: Tailoring, prepared: Prepared, halving: SuccessiveHalving, shipped: ExportedFiles
) -> TailorReport:
    from tinyclip_edge.api.tailored_bundle import commands
    from tinyclip_edge.tailoring.agreement import agreement
    from tinyclip_edge.tailoring.evaluation import evaluate, evaluate_general
    from tinyclip_edge.tailoring.report import BUNDLE, TEACHER, Entry, TailorReport

    request, work, candidates = tailoring.request, tailoring.work, tailoring.candidates
    own = agreement(prepared.probabilities, prepared.probabilities, prepared.targets)
    entries = [
        Entry(
            TEACHER,
            TEACHER,
            request.teacher,
            candidates.teacher.mb,
            candidates.teacher.ms,
            None,
            own,
        )
    ]
    for shape, cost in candidates.costs.items():
        name = shape.name
        steps, evaluated = halving.steps[name], halving.results.get(name)
        entries.append(Entry(name, "candidate", str(shape), cost.mb, cost.ms, steps, evaluated))
    evaluated = evaluate(request, prepared, str(request.out))
    entries.append(
        Entry(BUNDLE, BUNDLE, halving.winner, shipped.mb, shipped.ms, agreement=evaluated)
    )
    if request.general is not None:
        entries.append(evaluate_general(request, prepared))
    return TailorReport(
        bundle=request.out,
        ship=tuple(shipped.files),
        work=work.path,
        page=work.path / "report.html",
        winner=halving.winner,
        run=work.runs / halving.winner,
        max_mb=request.max_mb,
        max_ms=request.max_ms,
        train_pictures=prepared.train,
        held_out=len(prepared.held_out),
        entries=tuple(entries),
        notes=prepared.notes,
        commands=commands(tailoring, halving.winner),
    )
