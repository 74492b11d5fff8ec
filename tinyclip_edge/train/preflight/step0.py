"""A student before its first step: origin of its weights, and accuracy.

N pictures and C labels of the validation pairs.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tinyclip_edge.config import LossConfig, RunConfig
from tinyclip_edge.data import PairMemory, open_source
from tinyclip_edge.inheritance import InheritanceReport
from tinyclip_edge.losses import affinity_loss
from tinyclip_edge.metrics import metrics_of
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.train.tasks.encoders import PairEncoder, pixel_codec
from tinyclip_edge.train.tasks.validation import Validation

if TYPE_CHECKING:
    from rich.table import Table

TEXT_WIDTH = 100  # columns of report.txt


@dataclass(frozen=True, slots=True)
class StepZeroMetrics:
    """The untrained student and its teacher on the same pairs; accuracies are shares."""

    source: str
    images: int
    labels: int
    teacher: dict[str, float]
    student: dict[str, float]
    affinity_kl: float  # each picture over all labels, each label over all pictures
    teacher_entropy: float  # lower bound of the affinity loss
    teacher_scale: float
    student_scale: float


@dataclass(frozen=True, slots=True)
class StepZeroReport:
    """Inherited weights and resulting accuracy; ``metrics`` is None without validation pairs."""

    teacher: str
    inherited: InheritanceReport
    parameters: dict[str, dict[str, int]]  # by tower, of teacher and student
    metrics: StepZeroMetrics | None

    @property
    def conserved(self) -> bool:
        """Whether the report contains each value of the student's towers exactly once."""
        towers = ("image", "text", "shared")
        return all(
            getattr(self.inherited, tower).total == self.parameters[tower]["student"]
            for tower in towers
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON data."""
        return {
            "teacher": self.teacher,
            "parameters": self.parameters,
            "parameters_conserved": self.conserved,
            "validation": None if self.metrics is None else asdict(self.metrics),
            **self.inherited.as_dict(),
        }

    def tables(self) -> list[Table]:
        """Return the tables to print."""
        tables = [self.inherited.table()]
        return tables if self.metrics is None else [*tables, _metrics_table(self.metrics)]

    def closing(self) -> str:
        """Return a line about the parameters, and one if accuracy could not be measured."""
        counts = self.parameters.values()
        of_student, of_teacher = (
            sum(count[who] for count in counts) for who in ("student", "teacher")
        )
        accounted = "all accounted for" if self.conserved else "NOT all accounted for"
        still = self.inherited.frozen_parameters
        frozen = f" ({still:,} of them frozen)" if still else ""
        line = (
            f"parameters: {of_student:,} of the teacher's {of_teacher:,}; "
            f"{self.inherited.inherited_parameters:,} inherited{frozen}, "
            f"{self.inherited.fresh_parameters:,} fresh, {accounted}"
        )
        return line if self.metrics else line + "\naccuracy not measured: data.val is null"

    def text(self) -> str:
        """Return tables and lines as plain text."""
        from rich.console import Console

        page = io.StringIO()
        # In a notebook, rich would display the text and leave the file empty.
        console = Console(file=page, width=TEXT_WIDTH, color_system=None, force_jupyter=False)
        for table in self.tables():
            console.print(table)
        console.print(self.closing(), highlight=False)
        return page.getvalue()


def step_zero(
    config: RunConfig, teacher: LoadedClip, student: LoadedClip, inherited: InheritanceReport
) -> StepZeroReport:
    """Measure the untrained student like a run's validation. Raises DataError."""
    counts = {"teacher": _count(teacher), "student": _count(student)}
    towers = counts["student"]
    return StepZeroReport(
        teacher=teacher.name,
        inherited=inherited,
        parameters={tower: {who: counts[who][tower] for who in counts} for tower in towers},
        metrics=None if config.data.val is None else _measure(config, teacher, student),
    )


def _count(clip: LoadedClip) -> dict[str, int]:
    """Count the values of each tower's weights, the token embedding as part of the text tower."""
    totals = {"image": 0, "text": 0, "shared": 0}
    for key, tensor in clip.model.state_dict().items():
        shared = key in ("logit_scale", "logit_bias")
        tower = "image" if key.startswith("visual.") else "shared" if shared else "text"
        totals[tower] += tensor.numel()
    return totals


def _measure(config: RunConfig, teacher: LoadedClip, student: LoadedClip) -> StepZeroMetrics:
    data = config.data
    assert data.val is not None
    codec, source = (
        pixel_codec(teacher),
        open_source(data.val, data.source_options),
    )
    memory = PairMemory.load(source, codec, workers=data.workers, limit=data.val_limit)
    validation = Validation(memory, codec)
    teacher_features = validation.features(PairEncoder(teacher), teacher)
    ours = validation.features(PairEncoder(student), student)
    scales = _scales(config.loss, teacher, config.teacher.temperature)
    directions = config.loss.settings("affinity")
    affinity = affinity_loss(
        *ours,
        *teacher_features,
        student_scale=scales["student_scale"],
        teacher_scale=scales["teacher_scale"],
        i2t=directions["i2t"],
        t2i=directions["t2i"],
    )
    return StepZeroMetrics(
        source=source.name,
        images=len(ours[0]),
        labels=len(ours[1]),
        teacher=validation.accuracies(*teacher_features),
        student=validation.accuracies(*ours),
        affinity_kl=float(affinity.kl),
        teacher_entropy=float(affinity.teacher_entropy),
        **scales,
    )


def _scales(loss: LossConfig, teacher: LoadedClip, temperature: float) -> dict[str, float]:
    """Return the factors on similarities in the first step."""
    teacher_scale = loss.teacher_logit_scale or teacher.logit_scale / temperature
    setting = loss.student_logit_scale
    return {
        "teacher_scale": teacher_scale,
        "student_scale": teacher_scale if isinstance(setting, str) else setting,
    }


def _metrics_table(metrics: StepZeroMetrics) -> Table:
    from tinyclip_edge.plain_table import PlainTable

    table = PlainTable(
        title=f"Before training, on {metrics.images:,} pictures and {metrics.labels:,} labels "
        f"({metrics.source})"
    )
    table.add_column("")
    for who in ("teacher", "student"):
        table.add_column(who, justify="right")
    for metric in metrics_of(metrics.student):
        values = (metrics.teacher[metric.key], metrics.student[metric.key])
        table.add_row(metric.label, *map(metric.text, values))
    table.add_row("affinity KL (nats)", "0", f"{metrics.affinity_kl:.3f}")
    return table
