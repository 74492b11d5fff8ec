"""``tinyclip-edge doctor``: find problems of a run before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from tinyclip_edge.api.run_checks import check_vocab
from tinyclip_edge.cli.distill import ConfigArgs
from tinyclip_edge.cli.options import JsonFlag, print_json, refuse_launcher, say
from tinyclip_edge.cli.run_config import read_run
from tinyclip_edge.metrics import HEADLINES, METRICS

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

    with ProgressObserver() as observer:
        diagnosis = examine(run, observer)
    if json_output:
        print_json(diagnosis.as_dict())
    else:
        from rich.console import Console

        Console().print(doctor_table(diagnosis))
    for finding in diagnosis.findings:
        say(f"{'refused' if finding.refuses else 'warning'}: {' '.join(finding.text.split())}")
    if diagnosis.refused:
        raise typer.Exit(REFUSED)
    say("no problems found")


def doctor_table(diagnosis: Diagnosis) -> Table:
    """Return all measurements, by subject."""
    from rich.table import Table

    table = Table(
        title=f"{diagnosis.name}: {diagnosis.teacher} teaches {diagnosis.student or 'a student'}"
    )
    table.add_column("")
    table.add_column("found", justify="right")
    for part in (
        _data(diagnosis),
        _captions(diagnosis),
        _teacher(diagnosis),
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
    lines = {}  # up to 100 labels, two metrics are the same one
    for key in HEADLINES:
        name = METRICS[key].label_among(accuracy.labels)
        chance = _share(accuracy.chance[key])
        lines[f"teacher, {name}"] = f"{_share(accuracy.accuracies[key])} (chance {chance})"
    yield from lines.items()


def _probes(diagnosis: Diagnosis) -> Lines:
    for probe in diagnosis.probes:
        teacher, student = probe.teacher.changed, probe.student.changed
        yield f"{probe.name}: changed of {probe.cases}", f"teacher {teacher}, student {student}"


def _cost(diagnosis: Diagnosis) -> Lines:
    step, memory = diagnosis.step, diagnosis.memory
    if step is None or memory is None or diagnosis.seconds is None:
        return
    yield "loader", f"{step.loader_per_s:,.0f} pairs/s{', streamed' if diagnosis.streamed else ''}"
    yield f"step of {step.pairs:,} pairs", f"{step.seconds:.3g} s"
    if step.cached_seconds is not None:
        yield "with cached teacher features", f"{step.cached_seconds:.3g} s"
    yield "memory: pictures", _bytes(memory.pictures)
    yield "memory: teacher features", _bytes(memory.features)
    if diagnosis.cache_bytes is not None:
        views = f", {diagnosis.views} views" if diagnosis.views else ""
        yield f"feature cache on disk{views}, about", _bytes(diagnosis.cache_bytes)
    yield "memory: teacher", _bytes(memory.teacher)
    yield "memory: student, gradients, AdamW", _bytes(memory.student)
    yield "memory: activations", _bytes(memory.activations)
    yield f"memory on {diagnosis.device}, about", _bytes(memory.device)
    yield f"time of {diagnosis.steps:,} steps, about", _time(diagnosis.seconds)


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _bytes(value: int) -> str:
    return f"{value / 1e9:.2f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    minutes, seconds_left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds_left:02d} s"
