"""``tinyclip-edge doctor``: find the problems of a run before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from tinyclip_edge.api.run_checks import check_vocab
from tinyclip_edge.cli.distill import ConfigArgs
from tinyclip_edge.cli.options import (
    JsonFlag,
    print_json,
    print_tables,
    progress_console,
    refuse_launcher,
    say,
)
from tinyclip_edge.cli.run_config import read_run
from tinyclip_edge.metrics import HEADLINES, METRICS
from tinyclip_edge.notebook import report_table
from tinyclip_edge.units import duration, size

if TYPE_CHECKING:
    from rich.table import Table

    from tinyclip_edge.train.preflight.diagnosis import Diagnosis

REFUSED = 2
Lines = Iterator[tuple[str, str]]


def doctor(config: ConfigArgs = None, json_output: JsonFlag = False) -> None:
    """Check a run before it starts: data, teacher, memory and time."""
    refuse_launcher("doctor")
    run = read_run(config)
    check_vocab(run)
    from tinyclip_edge.train import ProgressObserver
    from tinyclip_edge.train.preflight.doctor import examine

    with ProgressObserver(progress_console()) as observer:
        diagnosis = examine(run, observer)
    if json_output:
        print_json(diagnosis.as_dict())
    else:
        print_tables([doctor_table(diagnosis)])
    for finding in diagnosis.findings:
        say(f"{'refused' if finding.refuses else 'warning'}: {' '.join(finding.text.split())}")
    if diagnosis.refused:
        raise typer.Exit(REFUSED)
    say("the run can start; see the warnings" if diagnosis.findings else "no problems found")


def doctor_table(diagnosis: Diagnosis) -> Table:
    """Return all measurements, by subject."""
    table = report_table(
        f"{diagnosis.name}: {diagnosis.teacher} teaches {diagnosis.student or 'a student'}",
        ["found"],
    )
    for part in (
        _data(diagnosis),
        _captions(diagnosis),
        _teacher(diagnosis),
        _domain(diagnosis),
        _probes(diagnosis),
        _cost(diagnosis),
    ):
        for name, value in part:
            table.add_row(name, value)
        table.add_section()
    return table


def _data(diagnosis: Diagnosis) -> Lines:
    source = diagnosis.source
    count = source.count
    yield "pairs", f"{'' if count.exact else 'about '}{count.pairs:,}"
    yield "sampled", f"{source.sampled:,}"
    yield "unusable samples", _share(source.bad)
    yield "repeated images", _share(source.images.repeated)
    yield "images of one colour", _share(source.images.plain)
    yield "read and decoded", f"{source.samples_per_s:,.0f} pairs/s"


def _captions(diagnosis: Diagnosis) -> Lines:
    captions = diagnosis.source.captions
    yield "captions", f"{captions.captions:,}"
    yield "repeated captions", _share(captions.repeated)
    yield "tokens, median and p95", f"{captions.median:.0f}, {captions.p95:.0f}"
    yield f"cut at {captions.context_length} tokens", _share(captions.cut)


def _teacher(diagnosis: Diagnosis) -> Lines:
    accuracy = diagnosis.accuracy
    if accuracy is None:
        return
    lines = {}  # with at most 100 labels, two metrics coincide
    for key in HEADLINES:
        name = METRICS[key].label_among(accuracy.labels)
        chance = _share(accuracy.chance[key])
        lines[f"teacher, {name}"] = f"{_share(accuracy.accuracies[key])} (chance {chance})"
    yield from lines.items()


def _domain(diagnosis: Diagnosis) -> Lines:
    domain = diagnosis.domain
    if domain is None:
        return
    yield "labels", f"{domain.labels:,}"
    yield "images examined", f"{domain.images:,}"
    yield "nearly equal to an earlier one", _share(domain.repeated)
    yield "teacher's confidence, median", _share(domain.confidence)
    if domain.recognition is not None:
        recognition = domain.recognition
        chance = _share(recognition.chance)
        yield (
            "a label beats common names",
            f"{_share(recognition.share)} (chance {chance})",
        )
    yield "labels never used", f"{len(domain.unused):,}"
    yield "pairs of labels confused", f"{len(domain.confused):,}"
    yield "images far from all labels", f"{len(domain.far):,}"


def _probes(diagnosis: Diagnosis) -> Lines:
    for probe in diagnosis.probes:
        teacher, student = probe.teacher.changed, probe.student.changed
        yield f"{probe.name}: changed of {probe.cases}", f"teacher {teacher}, student {student}"


def _cost(diagnosis: Diagnosis) -> Lines:
    step, memory = diagnosis.step, diagnosis.memory
    if step is None or memory is None or diagnosis.seconds is None:
        return
    yield "loader", f"{step.loader_per_s:,.0f} pairs/s{', streamed' if diagnosis.streamed else ''}"
    yield f"step of {step.pairs:,} pairs", duration(step.seconds)
    if step.cached_seconds is not None:
        yield "with cached teacher features", duration(step.cached_seconds)
    yield "memory: pictures", size(memory.pictures)
    yield "memory: teacher features", size(memory.features)
    if diagnosis.cache_bytes is not None:
        views = f", {diagnosis.views} views" if diagnosis.views else ""
        yield f"feature cache on disk{views}, about", size(diagnosis.cache_bytes)
    yield "memory: teacher", size(memory.teacher)
    yield "memory: student, gradients, AdamW", size(memory.student)
    yield "memory: activations", size(memory.activations)
    yield f"memory on {diagnosis.device}, about", size(memory.device)
    yield f"time of {diagnosis.steps:,} steps, about", duration(diagnosis.seconds)


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
