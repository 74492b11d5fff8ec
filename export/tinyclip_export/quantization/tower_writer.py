"""Write the tower files of one model: float sources, smoothed if required, and quantized towers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyclip_export.layout import InputForm
from tinyclip_export.onnx_passes import exporter
from tinyclip_export.onnx_passes.exchange_weights import exchange_weights
from tinyclip_export.quantization.calibration import Calibration
from tinyclip_export.quantization.dynamic_int8 import layers_with_weights
from tinyclip_export.quantization.float_form import float_form
from tinyclip_export.quantization.recipe import (
    CompensatedRecipe,
    MeasuredRecipe,
    QuantizeJob,
    Recipe,
    RoundedTower,
)
from tinyclip_export.quantization.registry import TowerRecipes
from tinyclip_export.quantization.static_int8 import (
    StaticRecipe,
    measure_ranges,
    static_float_layers,
)
from tinyclip_export.quantization.table_sensitivity import TEXTS, table_sensitivity
from tinyclip_export.verification.embeddings import TowerFiles

if TYPE_CHECKING:
    from torch import Tensor, nn


COMPARED = 8  # inputs on which a smoothed file is compared with the float one
SAME = 1e-4  # largest difference of a component; both outputs have unit norm


class TowerWriter:
    """Writes tower files; calibration results are cached, and temporary files go to `scratch`."""

    def __init__(
        self,
        towers: Mapping[str, nn.Module],
        sources: Mapping[str, Path],
        scratch: Path,
        *,
        image_size: int,
        form: InputForm,
        calibration: Callable[[], Calibration],
    ) -> None:
        """`sources` are the float files of `towers`; `calibration` is called at most once."""
        self.scratch, self.form = scratch, form
        self._towers, self._sources = towers, {(t, 0.0): path for t, path in sources.items()}
        self._image_size = image_size
        self._supply = calibration
        self._calibration: Calibration | None = None
        self._peaks: dict[str, list[Tensor]] = {}
        self._ranges: dict[tuple[Path, tuple[str, ...]], Any] = {}  # by float form and operators
        self._rounded: dict[tuple[Path, Hashable], RoundedTower] = {}
        self._forms: dict[tuple[Path, Recipe], Path] = {}

    @property
    def calibration(self) -> Calibration:
        """The calibration pairs, loaded on first use."""
        if self._calibration is None:
            self._calibration = self._supply()
        return self._calibration

    @property
    def has_calibration(self) -> bool:
        """Whether the calibration pairs were needed."""
        return self._calibration is not None

    def module(self, tower: str) -> nn.Module:
        """Return the module that a tower's float file is exported from."""
        return self._towers[tower]

    def source(self, tower: str, strength: float = 0.0) -> Path:
        """Return the float file of a tower, smoothed with `strength` (0: as it is)."""
        key = (tower, strength)
        if key not in self._sources:
            self._sources[key] = self._smoothed(tower, strength)
        return self._sources[key]

    def float_file(self, tower: str, recipe: Recipe, strength: float = 0.0) -> Path:
        """Return the float file that `recipe` quantizes, see float_form.py."""
        key = (self.source(tower, strength), recipe)
        if key not in self._forms:
            # Text towers have no convolutions, but may be large.
            self._forms[key] = float_form(*key, self.scratch) if tower == "image" else key[0]
        return self._forms[key]

    def layers(self, tower: str, recipe: Recipe) -> list[str]:
        """Return the names of the layers that `recipe` quantizes."""
        source = self.float_file(tower, recipe)
        floats = static_float_layers(source) if isinstance(recipe, StaticRecipe) else ()
        return [
            name for name in layers_with_weights(source, recipe.operators) if name not in floats
        ]

    def write(
        self,
        tower: str,
        recipe: Recipe,
        target: Path,
        *,
        strength: float = 0.0,
        keep_float: Iterable[str] = (),
    ) -> None:
        """Write a tower quantized by a recipe; layers in `keep_float` stay float."""
        job = QuantizeJob(
            tower,
            self.float_file(tower, recipe, strength),
            target,
            keep_float=frozenset(keep_float),
        )
        if isinstance(recipe, MeasuredRecipe):
            job = replace(job, ranges=self._ranges_of(tower, job.source, recipe))
        if isinstance(recipe, CompensatedRecipe) and recipe.compensates:
            job = replace(job, rounded=self._rounded_by(tower, job.source, recipe))
        recipe.write(job)

    def write_both(self, recipes: TowerRecipes, targets: Mapping[str, Path]) -> None:
        """Write both towers of a precision, without smoothing and without extra float layers."""
        for tower, target in targets.items():
            self.write(tower, recipes.of(tower), target)

    def _ranges_of(self, tower: str, source: Path, recipe: MeasuredRecipe) -> Any:  # noqa: ANN401
        kinds = recipe.measured(source)
        if (source, kinds) not in self._ranges:
            feeds = self.calibration.feeds
            self._ranges[source, kinds] = measure_ranges(
                source, self.scratch, lambda: feeds(tower, recipe.inputs), kinds
            )
        return self._ranges[source, kinds]

    def _rounded_by(self, tower: str, source: Path, recipe: CompensatedRecipe) -> RoundedTower:
        key = (source, recipe.roundings)
        if key not in self._rounded:
            calibration, sensitivity = self.calibration, None
            if tower == "text":
                batches = calibration.batches(tower, min(recipe.inputs, TEXTS))
                sensitivity = table_sensitivity(self._towers[tower], batches)
            self._rounded[key] = recipe.round_weights(
                source, lambda: calibration.feeds(tower, recipe.inputs), sensitivity
            )
        return self._rounded[key]

    def _smoothed(self, tower: str, strength: float) -> Path:
        import torch

        from tinyclip_export.quantization.smoothquant import PEAK_INPUTS, activation_peaks, smoothed

        module = self._towers[tower]
        if tower not in self._peaks:
            batches = self.calibration.batches(tower, PEAK_INPUTS)
            self._peaks[tower] = activation_peaks(module, map(torch.from_numpy, batches))
        path = self.scratch / f"{tower}-smooth-{round(100 * strength)}.onnx"
        module = smoothed(module, self._peaks[tower], strength)
        if self._exchanged(tower, module, path):
            return path
        if tower == "image":
            exporter.export_image_tower(module, path, image_size=self._image_size, form=self.form)
        else:
            exporter.export_text_tower(module, path, form=self.form)  # type: ignore[arg-type]
        return path

    def _exchanged(self, tower: str, module: nn.Module, path: Path) -> bool:
        """Write the float file with the smoothed weights; False unless it computes the same."""
        source = self._sources[tower, 0.0]
        if not exchange_weights(source, path, self._towers[tower], module):
            return False
        before, after = (
            self.calibration.features(
                TowerFiles("fp32", file, file, form=self.form).open(tower), tower, COMPARED
            )
            for file in (source, path)
        )
        return float(np.abs(after - before).max()) < SAME
