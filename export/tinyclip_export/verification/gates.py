"""The checks of a bundle and their gates; all are run and reported before a bundle is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import VerificationError, first_line
from tinyclip_edge.precisions import PRECISIONS
from tinyclip_edge.runtime.protocol import Features
from tinyclip_export.layout import ANY_INPUT, MIN_TOKENS, TOWER_IO, InputForm, TowerIO
from tinyclip_export.verification.embeddings import TimedEmbeddings, TowerFiles
from tinyclip_export.verification.failures import (
    AxesError,
    GatesFailedError,
    LatencyError,
    NamesError,
    RankingError,
    ReloadError,
    ShapesError,
    TooFewPairsError,
    ValuesError,
)
from tinyclip_export.verification.metrics import (
    CosineStats,
    RetrievalRanks,
    changed_hits,
    cosine_stats,
    ranking_figures,
    recall_drop,
    text_to_image,
)

BATCHES = (1, 2, 5)
UNIT_NORM = 1e-3
MAX_SLOWDOWN = 1.05  # relative to fp32's median; smaller differences are noise
REPLAY_COSINE = 0.9999  # on the same machine only float rounding may differ


@dataclass(frozen=True, slots=True)
class ExpectedSizes:
    """Sizes that the towers are expected to have."""

    image_size: int  # pixels
    embedding_dim: int
    context_length: int
    form: InputForm = ANY_INPUT


@dataclass(slots=True)
class VerificationReport:
    """Collects the figures of all checks, failures and warnings."""

    figures: dict[str, dict[str, Any]] = field(default_factory=dict)  # precision -> figures
    failures: list[VerificationError] = field(default_factory=list)
    warnings: list[VerificationError] = field(
        default_factory=list
    )  # failed checks that are not gates

    def note(self, precision: str, **figures: Any) -> None:  # noqa: ANN401
        """Add figures of a precision, whether or not its checks pass."""
        self.figures.setdefault(precision, {"checks": {}}).update(figures)

    def add(self, other: VerificationReport, *, label: str) -> None:
        """Add the failures and warnings of another report under a label, without its figures."""
        for errors, added in ((self.failures, other.failures), (self.warnings, other.warnings)):
            errors += [type(error)(f"{label} {error}") for error in added]

    def attempt(
        self, precision: str, name: str, check: Callable[[], None], *, gate: bool = True
    ) -> bool:
        """Run a check, record whether it passed and return that; without `gate` it only warns."""
        self.note(precision)
        passed = self.judge(check, gate=gate)
        self.figures[precision]["checks"][name] = passed
        return passed

    def judge(self, check: Callable[[], None], *, gate: bool = True) -> bool:
        """Run a check, keep its failure, and return whether it passed."""
        try:
            check()
        except VerificationError as error:
            (self.failures if gate else self.warnings).append(error)
            return False
        return True

    def mark_undecided(self, precision: str, name: str, reason: VerificationError) -> None:
        """Record that a check neither passed nor failed, and warn."""
        self.warnings.append(reason)
        self.figures[precision]["checks"][name] = None

    def raise_failures(self) -> None:
        """Raise GatesFailedError if any check failed."""
        if self.failures:
            raise GatesFailedError(self.failures)


def check_structure(report: VerificationReport, files: TowerFiles, expected: ExpectedSizes) -> None:
    """Check names, dynamic axes and shapes of both towers."""
    precision = files.precision
    for tower in TOWER_IO:
        probe = TowerChecks(files, tower, expected.form.io(tower))
        if report.attempt(precision, f"{tower} names", probe.check_names):
            report.attempt(precision, f"{tower} axes", probe.check_axes)
            report.attempt(precision, f"{tower} shapes", partial(probe.check_shapes, expected))


def check_embeddings(
    report: VerificationReport,
    precision: str,
    reference: TimedEmbeddings,
    exported: TimedEmbeddings,
    *,
    max_drop: float,
) -> None:
    """Check values and ranking of one precision against PyTorch."""
    for tower in TOWER_IO:
        cosines = cosine_stats(getattr(reference, tower), getattr(exported, tower))
        figures = {key: round(value, 7) for key, value in asdict(cosines).items()}
        report.note(precision, **{tower: {**figures, "ms": exported.milliseconds[tower]}})
        gate = least_cosine(precision, convolutional=tower == "image" and reference.convolutional)
        check = partial(check_values, precision, f"{precision} {tower}", cosines, gate)
        report.attempt(precision, f"{tower} values", check)
    before = text_to_image(reference.image, reference.text)
    after = text_to_image(exported.image, exported.text)
    report.note(precision, ranking=ranking_figures(before, after))
    check = partial(check_ranking, precision, before, after, max_drop)
    passed = report.attempt(precision, "ranking", check)
    count = len(after.rank)
    if passed and precision != "fp32" and 0 < max_drop < 100 / count:
        reason = (
            f"{precision} ranking: too few pairs to tell: one of {count:,} is {100 / count:.1f} "
            f"points, {max_drop:g} allowed; verify on {math.ceil(100 / max_drop)} or more"
        )
        report.mark_undecided(precision, "ranking", TooFewPairsError(reason))


def check_latencies(
    report: VerificationReport, precision: str, float_ms: Mapping[str, float], *, gate: bool
) -> None:
    """Compare the recorded milliseconds of each tower with those of fp32."""
    for tower in TOWER_IO:
        figures = report.figures[precision][tower]
        figures["fp32_ms"] = float_ms[tower]
        figures["times_faster"] = round(float_ms[tower] / figures["ms"], 3)
        label = f"{precision} {tower}"
        check = partial(check_latency, label, figures["ms"], float_ms[tower])
        report.attempt(precision, f"{tower} latency", check, gate=gate)


class TowerChecks:
    """Checks the inputs and outputs of one tower of one precision."""

    def __init__(self, files: TowerFiles, tower: str, io: TowerIO) -> None:
        self._files, self._tower, self._io = files, tower, io
        self._label = f"{files.precision} {tower}"
        self._session: Any = None

    def check_names(self) -> None:
        """Raise NamesError unless the file loads and has the expected input and output."""
        io = self._io
        try:
            self._session = self._files.open(self._tower)
        except VerificationError as error:
            raise NamesError(f"{self._label} names: {error}") from error
        inputs = [value.name for value in self._session.get_inputs()]
        outputs = [value.name for value in self._session.get_outputs()]
        if inputs != [io.input_name] or outputs != [io.output_name]:
            raise NamesError(
                f"{self._label} names: {inputs} to {outputs}, "
                f"not {io.input_name} to {io.output_name}"
            )

    def check_axes(self) -> None:
        """Raise AxesError unless exactly the expected axes are dynamic."""
        shape = self._session.get_inputs()[0].shape
        free = {i: size for i, size in enumerate(shape) if not isinstance(size, int)}
        if free != self._io.dynamic_axes:
            raise AxesError(f"{self._label} axes: {free} are free, not {self._io.dynamic_axes}")
        batch = self._session.get_outputs()[0].shape[0]
        if isinstance(batch, int) and 0 in free:
            raise AxesError(f"{self._label} axes: the output's batch is frozen at {batch}")

    def check_shapes(self, expected: ExpectedSizes) -> None:
        """Raise ShapesError unless batches of 1, 2 and 5 give finite unit-norm ``[B, D]``.

        With a fixed batch size only that one is tried, with padded texts only the full length.
        """
        for value in self._inputs(expected):
            case = f"{self._label} shapes: {value.shape}"
            try:
                output = self._session.run(None, {self._io.input_name: value})[0]
            # onnxruntime's exceptions share no base class.
            except Exception as error:
                line = first_line(error)
                raise ShapesError(f"{case} fails: {line}") from error
            expected_shape = (len(value), expected.embedding_dim)
            if output.shape != expected_shape:
                raise ShapesError(f"{case} gives {output.shape}, not {expected_shape}")
            check_unit_norm(f"{case} gives", output)

    def _inputs(self, expected: ExpectedSizes) -> Iterator[npt.NDArray[Any]]:
        generator = np.random.default_rng(0)
        size, context, form = expected.image_size, expected.context_length, expected.form
        lengths = {context} if form.padded else {MIN_TOKENS, min(5, context), context}
        for batch in (form.batch,) if form.batch else BATCHES:
            if self._tower == "image":
                yield generator.standard_normal((batch, 3, size, size)).astype(np.float32)
                continue
            for length in sorted(lengths):
                # Any token but padding, which towers that hide it from their mean cannot average.
                token = 1 if form.pad_id == 0 else 0
                yield np.full((batch, length), token, dtype=form.ids)


def check_unit_norm(case: str, features: Features) -> None:
    """Raise ShapesError, beginning with `case`, unless all rows have the length 1."""
    error = float(np.abs(np.linalg.norm(features, axis=-1) - 1.0).max())
    if not error < UNIT_NORM:
        raise ShapesError(f"{case} norms up to {error:.3g} away from 1")


def least_cosine(precision: str, *, convolutional: bool) -> float:
    """Return the cosine with PyTorch that a tower of a precision must reach."""
    entry = PRECISIONS[precision]
    if convolutional and entry.convolution_cosine is not None:
        return entry.convolution_cosine
    return entry.least_cosine


def check_values(precision: str, label: str, cosines: CosineStats, gate: float) -> None:
    """Raise ValuesError when the cosine with PyTorch is below the gate."""
    cosine = cosines.cosine_min if PRECISIONS[precision].exact else cosines.cosine_p1
    if not cosine >= gate:
        raise ValuesError(f"{label} values: cosine {cosine:.5f} is below {gate}")


def check_ranking(
    precision: str, before: RetrievalRanks, after: RetrievalRanks, max_drop: float
) -> None:
    """Raise RankingError when fp32 changes a hit, or int8 loses more than `max_drop` points.

    The loss may exceed `max_drop` by its standard error over the pairs.
    """
    if PRECISIONS[precision].exact:
        changed = changed_hits(before, after)
        if changed:
            raise RankingError(
                f"{precision} ranking: {changed:,} of {len(after.rank):,} hits changed"
            )
        return
    drop, stderr = recall_drop(before, after)
    if drop - stderr > max_drop:
        raise RankingError(
            f"{precision} ranking: recall@1 fell {drop:.2f} ± {stderr:.2f} points, "
            f"{max_drop:g} and a standard error allowed"
        )


def check_reload(precision: str, result: Mapping[str, Any]) -> None:
    """Raise ReloadError if `replay_in_child` could not open the bundle, or embeddings differ."""
    if "error" in result:
        raise ReloadError(f"{precision} reload: {result['error']}")
    if not result["cosine"] >= REPLAY_COSINE:
        raise ReloadError(
            f"{precision} reload: golden cosine {result['cosine']:.5f} in a fresh process is "
            f"below {REPLAY_COSINE}"
        )


def check_latency(label: str, ms: float, float_ms: float) -> None:
    """Raise LatencyError for a tower that is slower than its fp32 file, beyond noise."""
    if ms > MAX_SLOWDOWN * float_ms:
        raise LatencyError(
            f"{label} is slower than fp32 on this machine: {ms:.2f} against {float_ms:.2f} ms"
        )


def passes(
    precision: str, reference: TimedEmbeddings, exported: TimedEmbeddings, max_drop: float
) -> bool:
    """Whether values and ranking of a precision pass their gates."""
    report = VerificationReport()
    check_embeddings(report, precision, reference, exported, max_drop=max_drop)
    return not report.failures
