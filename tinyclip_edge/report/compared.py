"""Teacher, student and its edge bundles side by side, and what each byte and millisecond buys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count as counted

from tinyclip_edge.report.bundles import Bundle, Variant, reference_recall, variants
from tinyclip_edge.report.drawing import SERIES, Event, number
from tinyclip_edge.report.html import Safe, element, note, section, table
from tinyclip_edge.report.record import RunRecord
from tinyclip_edge.report.scatter import Spot, scatter
from tinyclip_edge.report.words import NONE, figures, megabytes, millions, percent, points_of

FLOAT32 = 4  # bytes
COLUMNS = ("both towers", "MB", "R@1 in validation", "R@1 at export", "points lost",
           "top-1 agrees", "least cosine", "image ms", "text ms")  # fmt: skip
RECALL = "text to image R@1, %"


def comparison(record: RunRecord, bundles: Sequence[Bundle]) -> Safe:
    """Return the table, and the plots where there is a bundle."""
    teacher, student = (record.evaluations(who)[-1:] for who in ("teacher", "student"))
    blanks = [NONE] * 5
    rows = [
        ["teacher", *_model(record.start, "teacher_"), _recall(teacher), NONE, *blanks],
        ["student", *_model(record.start, ""), _recall(student),
         points_of(reference_recall(bundles)), *blanks],
    ]  # fmt: skip
    numbered = list(_numbered(bundles, ""))
    rows += [_row(label, variant) for label, variant in numbered]
    known = None if bundles else 1 + COLUMNS.index("R@1 at export")
    head = ["", *COLUMNS][:known]
    told = _caption([variant for _, variant in numbered])
    parts = [table(head, [row[:known] for row in rows], told)]
    if bundles:
        spots = _Spots.of(record, bundles, "", SERIES[0])
        told = ", ".join(str(bundle.folder) for bundle in bundles)
        parts += [element("div", *spots.drawn("S: the student in PyTorch."), class_="figures"),
                  note(f"Bundles: {told}")]  # fmt: skip
    else:
        parts.append(note("No bundle of this student was found: tinyclip-edge export makes one, "
                          "tinyclip-edge report --bundles FOLDER finds it elsewhere."))  # fmt: skip
    return section("compared", "Teacher, student, bundles", *parts)


def compared_bundles(runs: Sequence[tuple[str, RunRecord, Sequence[Bundle]]]) -> Safe | None:
    """Return the bundles of several runs, each run with its letter; None where there is none."""
    rows, seen, spots = [], [], _Spots([], [])
    for (letter, record, bundles), colour in zip(runs, SERIES, strict=False):
        numbered = list(_numbered(bundles, letter))
        rows += [_row(label, variant) for label, variant in numbered]
        seen += [variant for _, variant in numbered]
        spots.add(_Spots.of(record, bundles, letter, colour))
    if not rows:
        return None
    drawn = spots.drawn("A letter alone: the student in PyTorch.")
    return section("compared", "Bundles", table(["", *COLUMNS], rows, _caption(seen)),
                   element("div", *drawn, class_="figures"))  # fmt: skip


class _Spots:
    """Points of accuracy over bytes, and over milliseconds."""

    def __init__(self, sizes: list[Spot], times: list[Spot]) -> None:
        self.sizes, self.times = sizes, times

    @classmethod
    def of(cls, record: RunRecord, bundles: Sequence[Bundle], letter: str, colour: str) -> _Spots:
        """Take the points of a run's bundles, and of its student as PyTorch has it."""
        spots = cls([], [])
        size, reference = _float_bytes(record.start, ""), reference_recall(bundles)
        if size is not None and reference is not None:
            spots.sizes.append(Spot(letter or "S", size / 1e6, reference, 0.0, colour))
        for label, variant in _numbered(bundles, letter):
            if variant.recall is None:
                continue
            rest = (variant.recall, variant.stderr or 0.0, colour)
            spots.sizes.append(Spot(label, variant.size / 1e6, *rest))
            if variant.image_ms is not None:
                spots.times.append(Spot(label, variant.image_ms, *rest))
        return spots

    def add(self, others: _Spots) -> None:
        """Take in the points of another run."""
        self.sizes += others.sizes
        self.times += others.times

    def drawn(self, told: str) -> Iterator[Safe]:
        """Draw both; what was not measured is left out."""
        joined = "Up and to the left is better; the line joins those that no other beats."
        bars = "Bars: standard error of the change against PyTorch."
        if self.sizes:
            yield scatter("pareto-bytes", "Accuracy against bytes", self.sizes,
                          ("both towers, MB", RECALL), caption=f"{told} {joined}")  # fmt: skip
        if self.times:
            yield scatter("pareto-ms", "Accuracy against latency", self.times,
                          ("one picture through the image tower, ms", RECALL),
                          caption=bars)  # fmt: skip


def _numbered(bundles: Sequence[Bundle], letter: str) -> Iterator[tuple[str, Variant]]:
    numbers, seen = counted(1), set()
    for bundle in bundles:
        for variant in variants(bundle):
            if variant.identity not in seen:  # every bundle of a run may hold its float32
                seen.add(variant.identity)
                yield f"{letter}{next(numbers)}", variant


def _row(label: str, variant: Variant) -> list[str]:
    return [
        f"{label}: {variant.name}",
        millions(variant.towers),
        megabytes(variant.size),
        NONE,
        points_of(variant.recall),
        lost(variant.drop, variant.stderr),
        points_of(variant.agreement),
        NONE if variant.cosine is None else f"{variant.cosine:.5f}",
        figures(variant.image_ms),
        figures(variant.text_ms),
    ]


def lost(drop: float | None, stderr: float | None) -> str:
    """Return points lost with their standard error; less than nothing is a gain."""
    if drop is None:
        return NONE
    return (
        f"{drop:.2f}"
        if stderr is None
        else f"{drop:.2f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{stderr:.2f}"
    )


def _caption(seen: Sequence[Variant]) -> str:
    told = "R@1: text to image; MB: 10^6 bytes of both towers, of PyTorch's models as float32"
    pairs = sorted({variant.pairs for variant in seen if variant.pairs is not None})
    if not pairs:
        return told
    many = ", ".join(figures(value) for value in pairs)
    differ = " (not the same for all: compare points lost)" if len(pairs) > 1 else ""
    return (
        f"{told}; at export: on {many} pairs{differ}; points lost: against PyTorch; ms: one input "
        "on the machine that exported"
    )


def _model(start: Event, whose: str) -> tuple[str, str]:
    towers = number(start.get(f"{whose}encoder_parameters"))
    return millions(towers), megabytes(_float_bytes(start, whose))


def _float_bytes(start: Event, whose: str) -> float | None:
    towers, tokens = (number(start.get(f"{whose}{k}_parameters")) for k in ("encoder", "token"))
    return None if towers is None or tokens is None else FLOAT32 * (towers + tokens)


def _recall(evaluations: Sequence[Event]) -> str:
    return percent(evaluations[-1].get("t2i_r1")) if evaluations else NONE
