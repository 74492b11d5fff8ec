"""Teacher, student and bundles side by side: accuracy against bytes and against milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count as integers

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
    """Return the table, and the plots if there is a bundle."""
    teacher, student = (record.evaluations(who)[-1:] for who in ("teacher", "student"))
    blanks = [NONE] * 5
    rows = [
        ["teacher", *_model(record.start, "teacher_"), _recall(teacher), NONE, *blanks],
        ["student", *_model(record.start, ""), _recall(student),
         points_of(reference_recall(bundles)), *blanks],
    ]  # fmt: skip
    numbered = list(_numbered(bundles, ""))
    rows += [_row(label, variant) for label, variant in numbered]
    last_column = None if bundles else 1 + COLUMNS.index("R@1 at export")
    head = ["", *COLUMNS][:last_column]
    caption = _caption([variant for _, variant in numbered])
    parts = [table(head, [row[:last_column] for row in rows], caption)]
    if bundles:
        spots = _Spots.of(record, bundles, "", SERIES[0])
        folders = ", ".join(str(bundle.folder) for bundle in bundles)
        parts += [element("div", *spots.figures("S: the student in PyTorch."), class_="figures"),
                  note(f"Bundles: {folders}")]  # fmt: skip
    else:
        message = (
            "No bundle of this student was found: make one with tinyclip-edge export, or give its "
            "folder with tinyclip-edge report --bundles."
        )
        parts.append(note(message))
    return section("compared", "Teacher, student, bundles", *parts)


def compared_bundles(runs: Sequence[tuple[str, RunRecord, Sequence[Bundle]]]) -> Safe | None:
    """Return the bundles of several runs, each run with its letter; None without any."""
    rows, all_variants, spots = [], [], _Spots([], [])
    for (letter, record, bundles), colour in zip(runs, SERIES, strict=False):
        numbered = list(_numbered(bundles, letter))
        rows += [_row(label, variant) for label, variant in numbered]
        all_variants += [variant for _, variant in numbered]
        spots.add(_Spots.of(record, bundles, letter, colour))
    if not rows:
        return None
    figures = spots.figures("A letter without a number: the student in PyTorch.")
    return section("compared", "Bundles", table(["", *COLUMNS], rows, _caption(all_variants)),
                   element("div", *figures, class_="figures"))  # fmt: skip


class _Spots:
    """Points of accuracy over bytes, and over milliseconds."""

    def __init__(self, sizes: list[Spot], times: list[Spot]) -> None:
        self.sizes, self.times = sizes, times

    @classmethod
    def of(cls, record: RunRecord, bundles: Sequence[Bundle], letter: str, colour: str) -> _Spots:
        """Return the points of a run's bundles and of its student in PyTorch."""
        spots = cls([], [])
        size, reference = _float_bytes(record.start, ""), reference_recall(bundles)
        if size is not None and reference is not None:
            spots.sizes.append(Spot(letter or "S", size / 1e6, reference, 0.0, colour))
        for label, variant in _numbered(bundles, letter):
            if variant.recall is None:
                continue
            details = (variant.recall, variant.stderr or 0.0, colour)
            spots.sizes.append(Spot(label, variant.size / 1e6, *details))
            if variant.image_ms is not None:
                spots.times.append(Spot(label, variant.image_ms, *details))
        return spots

    def add(self, other: _Spots) -> None:
        """Add the points of another run."""
        self.sizes += other.sizes
        self.times += other.times

    def figures(self, caption: str) -> Iterator[Safe]:
        """Draw both figures, without points that were not measured."""
        legend = "Up and to the left is better; the line joins the Pareto front."
        bars = "Bars: standard error of the change against PyTorch."
        if self.sizes:
            yield scatter("pareto-bytes", "Accuracy against bytes", self.sizes,
                          ("both towers, MB", RECALL), caption=f"{caption} {legend}")  # fmt: skip
        if self.times:
            yield scatter("pareto-ms", "Accuracy against latency", self.times,
                          ("one picture through the image tower, ms", RECALL),
                          caption=bars)  # fmt: skip


def _numbered(bundles: Sequence[Bundle], letter: str) -> Iterator[tuple[str, Variant]]:
    numbers, identities = integers(1), set()
    for bundle in bundles:
        for variant in variants(bundle):
            if (
                variant.identity not in identities
            ):  # several bundles may have the same float32 files
                identities.add(variant.identity)
                yield f"{letter}{next(numbers)}", variant


def _row(label: str, variant: Variant) -> list[str]:
    return [
        f"{label}: {variant.name}",
        millions(variant.towers),
        megabytes(variant.size),
        NONE,
        points_of(variant.recall),
        format_drop(variant.drop, variant.stderr),
        points_of(variant.agreement),
        NONE if variant.cosine is None else f"{variant.cosine:.5f}",
        figures(variant.image_ms),
        figures(variant.text_ms),
    ]


def format_drop(drop: float | None, stderr: float | None) -> str:
    """Format the points of recall lost, with their standard error; a negative loss is a gain."""
    if drop is None:
        return NONE
    return (
        f"{drop:.2f}"
        if stderr is None
        else f"{drop:.2f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{stderr:.2f}"
    )


def _caption(variants: Sequence[Variant]) -> str:
    units = "R@1: text to image; MB: 10^6 bytes of both towers, of PyTorch's models as float32"
    pairs = sorted({variant.pairs for variant in variants if variant.pairs is not None})
    if not pairs:
        return units
    pair_counts = ", ".join(figures(value) for value in pairs)
    warning = " (not the same for all: compare points lost)" if len(pairs) > 1 else ""
    return (
        f"{units}; at export: on {pair_counts} pairs{warning}; points lost: against PyTorch; "
        "ms: one input on the machine that exported"
    )


def _model(start: Event, prefix: str) -> tuple[str, str]:
    towers = number(start.get(f"{prefix}encoder_parameters"))
    return millions(towers), megabytes(_float_bytes(start, prefix))


def _float_bytes(start: Event, prefix: str) -> float | None:
    towers, tokens = (
        number(start.get(f"{prefix}{key}_parameters")) for key in ("encoder", "token")
    )
    return None if towers is None or tokens is None else FLOAT32 * (towers + tokens)


def _recall(evaluations: Sequence[Event]) -> str:
    return percent(evaluations[-1].get("t2i_r1")) if evaluations else NONE
