"""Account for every tensor of a student: where it came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tinyclip_edge.inheritance.taken import Taken

if TYPE_CHECKING:
    from rich.table import Table

Origin: TypeAlias = Literal["copied", "sliced", "fresh"]
Tower: TypeAlias = Literal["image", "text", "shared"]
# Teacher layers taken, in student order; of a ResNet one tuple of blocks a stage.
Layers: TypeAlias = "tuple[int, ...] | tuple[tuple[int, ...], ...]"
ORIGINS: tuple[Origin, ...] = ("copied", "sliced", "fresh")


@dataclass(frozen=True, slots=True)
class TensorOrigin:
    """One student tensor: copied whole, sliced, or left at its fresh initial value."""

    key: str
    tower: Tower
    origin: Origin
    parameters: int  # values; the statistics of a BatchNorm count too, as in the published sizes
    teacher_key: str | None


@dataclass(frozen=True, slots=True)
class TowerReport:
    """Tensors and parameters of one tower by origin."""

    layers: Layers
    tensors: dict[Origin, int]
    parameters: dict[Origin, int]

    @property
    def total(self) -> int:
        """Parameters of the tower."""
        return sum(self.parameters.values())


@dataclass(frozen=True, slots=True)
class InheritanceReport:
    """What a student took over; ``tensors`` holds every key of its state dict once."""

    method: str
    image: TowerReport
    text: TowerReport  # with the token embedding
    shared: TowerReport  # logit scale
    tensors: tuple[TensorOrigin, ...]
    notes: tuple[str, ...] = ()
    taken: Taken | None = None  # known where the shape of the teacher is

    @property
    def inherited_parameters(self) -> int:
        """Parameters that hold a teacher's value."""
        return sum(t.parameters for t in self.tensors if t.origin != "fresh")

    @property
    def fresh_parameters(self) -> int:
        """Parameters that keep their initial value."""
        return sum(t.parameters for t in self.tensors if t.origin == "fresh")

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report as a few lines of text."""
        rows = [f"inherited: {self.method}"]
        for name, tower in (("image", self.image), ("text", self.text), ("shared", self.shared)):
            counts = ", ".join(
                f"{tower.tensors[o]} {o} ({tower.parameters[o]:,})"
                for o in ORIGINS
                if tower.tensors[o]
            )
            layers = f", teacher layers [{_listed(tower.layers)}]" if tower.layers else ""
            rows.append(f"{name}: {counts} parameters{layers}")
        return rows + list(self.notes)

    def table(self) -> Table:
        """Return the report as a table for the terminal."""
        from rich.table import Table

        table = Table(title=f"Inherited weights ({self.method})", caption="\n".join(self.notes))
        for column in ("tower", "tensors", "copied", "sliced", "fresh"):
            table.add_column(column, justify="left" if column == "tower" else "right")
        table.add_column("teacher layers")
        for name, tower in (
            ("image", self.image),
            ("text", self.text),
            ("logit scale", self.shared),
        ):
            table.add_row(
                name,
                str(sum(tower.tensors.values())),
                *(f"{tower.parameters[origin]:,}" for origin in ORIGINS),
                _listed(tower.layers),
            )
        return table


def _listed(layers: Layers) -> str:
    """List layers; stages of a ResNet stand between bars."""
    stages = [s for s in layers if isinstance(s, tuple)]
    if stages:
        return " | ".join(", ".join(map(str, blocks)) for blocks in stages)
    return ", ".join(map(str, layers))


def summarise(tower: Tower, layers: Layers, tensors: Iterable[TensorOrigin]) -> TowerReport:
    """Sum tensors and parameters of one tower by origin."""
    mine = [t for t in tensors if t.tower == tower]
    return TowerReport(
        layers=layers,
        tensors={o: sum(t.origin == o for t in mine) for o in ORIGINS},
        parameters={o: sum(t.parameters for t in mine if t.origin == o) for o in ORIGINS},
    )
