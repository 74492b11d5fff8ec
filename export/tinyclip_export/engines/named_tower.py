"""A tower as a module whose input and output have names."""

from __future__ import annotations

from torch import Tensor, nn


class NamedTower(nn.Module):
    """A tower whose input and output have names, which the exported file uses."""

    def __init__(self, tower: nn.Module, input_name: str, output_name: str) -> None:
        super().__init__()
        self.tower, self.input_name, self.output_name = tower, input_name, output_name

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the tower on its only input."""
        return {self.output_name: self.tower(inputs[self.input_name])}
