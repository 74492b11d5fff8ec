"""Report the origin of every tensor of a student."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tinyclip_edge.inheritance.taken import InheritedUnits

if TYPE_CHECKING:
    from rich.table import Table

Origin: TypeAlias = Literal["copied", "sliced", "frozen", "fresh"]
Tower: TypeAlias = Literal["image", "text", "shared"]
# Inherited teacher layers in student order; for a ResNet one tuple of blocks per stage.
Layers: TypeAlias = "tuple[int, ...] | tuple[tuple[int, ...], ...]"
ORIGINS: tuple[Origin, ...] = ("copied", "sliced", "frozen", "fresh")


@dataclass(frozen=True, slots=True)
class TensorOrigin:
    """Origin of one student tensor: copied, sliced, copied and not trained, or random."""

    key: str
    tower: Tower
    origin: Origin
    parameters: int  # including BatchNorm statistics, as the published sizes do
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
    """Origins of a student's weights; ``tensors`` has every key of its state dict once."""

    method: str
    image: TowerReport
    text: TowerReport  # with the token embedding
    shared: TowerReport  # logit scale
    tensors: tuple[TensorOrigin, ...]
    notes: tuple[str, ...] = ()
    taken: InheritedUnits | None = None  # None when the teacher's shape is unknown

    @property
    def inherited_parameters(self) -> int:
        """Parameters inherited from the teacher."""
        return sum(t.parameters for t in self.tensors if t.origin != "fresh")

    @property
    def frozen_parameters(self) -> int:
        """Parameters that are the teacher's and are not trained."""
        return sum(t.parameters for t in self.tensors if t.origin == "frozen")

    @property
    def fresh_parameters(self) -> int:
        """Parameters with their initial value."""
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
            layers = f", teacher layers [{_format_layers(tower.layers)}]" if tower.layers else ""
            rows.append(f"{name}: {counts} parameters{layers}")
        return rows + list(self.notes)

    def table(self) -> Table:
        """Return the report as a table for the terminal."""
        from tinyclip_edge.plain_table import PlainTable

        table = PlainTable(
            title=f"Inherited weights ({self.method})", caption="\n".join(self.notes)
        )
        origins = [o for o in ORIGINS if o != "frozen" or self.frozen_parameters]
        for column in ("tower", "tensors", *origins):
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
                *(f"{tower.parameters[origin]:,}" for origin in origins),
                _format_layers(tower.layers),
            )
        return table


def _format_layers(layers: Layers) -> str:
    """Format layer numbers; stages of a ResNet are separated by bars."""
    stages = [s for s in layers if isinstance(s, tuple)]
    if stages:
        return " | ".join(", ".join(map(str, blocks)) for blocks in stages)
    return ", ".join(map(str, layers))


def summarise(tower: Tower, layers: Layers, tensors: Iterable[TensorOrigin]) -> TowerReport:
    """Sum tensors and parameters of one tower by origin."""
    tower_tensors = [t for t in tensors if t.tower == tower]
    return TowerReport(
        layers=layers,
        tensors={o: sum(t.origin == o for t in tower_tensors) for o in ORIGINS},
        parameters={o: sum(t.parameters for t in tower_tensors if t.origin == o) for o in ORIGINS},
    )
