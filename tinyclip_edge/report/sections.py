"""Sections of the page about one run: its state, and how to reproduce it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from tinyclip_edge.metrics import HEADLINES, METRICS
from tinyclip_edge.report.drawing import Event, number, points
from tinyclip_edge.report.html import Safe, element, facts, folded, note, section, table
from tinyclip_edge.report.record import RunRecord
from tinyclip_edge.report.words import (
    NONE,
    count,
    duration,
    figures,
    millions,
    percent,
    sentence,
)

STATUS = {
    "done": "done",
    "interrupted": "stopped before its end; can be resumed",
    "unfinished": "still running, or killed: no end was logged",
}


def headline(record: RunRecord) -> Iterator[Safe]:
    """Yield the student's accuracy against its teacher's in a sentence, if it was measured."""
    student, teacher = record.evaluations("student"), record.evaluations("teacher")
    metric = METRICS[HEADLINES[0]]
    accuracy = number(student[-1].get(metric.key)) if student else None
    if accuracy is None:
        return
    text: list[object] = [f"{sentence(metric.label)}: ", element("b", percent(accuracy))]
    level = number(teacher[-1].get(metric.key)) if teacher else None
    if level:
        relative = element("b", f"{accuracy / level:.0%}")
        text += [", ", relative, f" of the teacher's {percent(level)}"]
    share = _share_of_teacher(record.start)
    if share:
        text.append(f", with {share} encoder parameters")
    yield element("p", *text, ".", class_="headline")


def cards(record: RunRecord) -> Safe:
    """Return the headline figures, accuracy first."""
    start = record.start
    rows: list[tuple[str, str, str]] = []
    student, teacher = record.evaluations("student"), record.evaluations("teacher")
    for key in ("t2i_r1", "zero_shot_100"):
        if student and key in student[-1]:
            comparison = f"teacher {percent(teacher[-1].get(key))}" if teacher else ""
            rows.append((sentence(METRICS[key].label), percent(student[-1][key]), comparison))
    rows += [
        ("Student's towers", millions(start.get("encoder_parameters")), _share_of_teacher(start)),
        ("Time", duration(record.seconds), f"on {start.get('device', '?')}"),
        ("Steps", f"{record.steps_done:,}", f"of {count(start.get('steps'))}"),
    ]
    kl = points(record.steps, "kl")
    if kl:
        rows.append(("KL to the teacher", figures(kl[-1][1]), f"at first {figures(kl[0][1])}"))
    return element(
        "dl",
        *(
            element("div", element("dt", name), element("dd", value, " ", element("small", remark)))
            for name, value, remark in rows
        ),
        class_="cards",
    )


def about(record: RunRecord) -> Safe:
    """Return the facts of the run."""
    start, sessions = record.start, len(record.of("run_start"))
    rows: list[tuple[str, object]] = [
        ("State", STATUS.get(record.status, record.status)),
        ("Teacher", start.get("teacher", NONE)),
        ("Student", start.get("student", NONE)),
        ("Teacher's parameters", _parameters(start, "teacher_")),
        ("Student's parameters", _parameters(start, "")),
        ("Inherited before step 1", _inherited(record)),
        ("Device", f"{start.get('device', NONE)}, {count(start.get('threads'))} CPU threads"),
        ("Steps", f"{record.steps_done:,} of {count(start.get('steps'))}"),
        ("Time", f"{duration(record.seconds)}, sessions: {sessions}"),
        ("Started", start.get("time", NONE)),
        ("Steps skipped", count(len(record.of("skipped")))),
    ]
    return section("about", "The run", facts(rows))


def again(record: RunRecord) -> Safe:
    """Return commands, versions and configuration."""
    folder = shlex.quote(str(record.folder))
    config = shlex.quote(str(record.folder / "config.yaml"))
    commands = [
        f"tinyclip-edge distill {config}",
        *([] if record.status == "done" else [f"tinyclip-edge distill --resume {folder}"]),
        f"tinyclip-edge export {folder} --int8",
        f"tinyclip-edge report {folder}",
    ]
    versions = sorted(record.start.get("versions", {}).items())
    version_table = table(["", "version"], versions, "Versions at the start")
    start = record.start
    children = [
        element("pre", element("code", "\n".join(commands))),
        note(f"Teacher's weights, SHA-256: {start.get('teacher_sha256', NONE)}"),
        note(f"Student's weights, SHA-256: {record.student_sha256 or NONE}"),
        element("div", version_table, class_="words")
        if versions
        else note("Versions: not logged."),
    ]
    if record.config is None:
        children.append(note("config.yaml is not in the run folder."))
    else:
        text = element("pre", element("code", record.config))
        children.append(folded("Configuration as resolved", text))
    return section("again", "Reproduce", *children)


def _inherited(record: RunRecord) -> str:
    inherited = number(record.start.get("inherited_parameters"))
    if inherited:
        return f"{inherited:,.0f} parameters"
    masked = record.settings.get("inherit.method") == "masks"
    return "the whole teacher, then pruned by masks" if masked else "nothing"


def _parameters(start: Event, prefix: str) -> str:
    towers, tokens = (start.get(f"{prefix}{key}_parameters") for key in ("encoder", "token"))
    if towers is None:
        return NONE
    return f"{count(towers)} in both towers, {count(tokens)} in the token embedding"


def _share_of_teacher(start: Event) -> str:
    student, teacher = (
        number(start.get(key)) for key in ("encoder_parameters", "teacher_encoder_parameters")
    )
    return f"{student / teacher:.0%} of the teacher's" if student and teacher else ""
