"""Search precisions that lose too much, or all of them on request, and keep what verifies best."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tinyclip_export.quantization.mixed_precision import MixedPrecision
from tinyclip_export.quantization.registry import TowerRecipes
from tinyclip_export.quantization.tower_writer import TowerWriter
from tinyclip_export.sensitivity.search import SensitivityResult, SensitivityRow, search
from tinyclip_export.settings import ExportSettings
from tinyclip_export.verification.embeddings import (
    PairEmbeddings,
    Pairs,
    TowerFiles,
    pair_embeddings,
)
from tinyclip_export.verification.gates import passes
from tinyclip_export.verification.metrics import recall_drop, text_to_image

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip


@dataclass(slots=True)
class LayerSelection:
    """Searches on calibration pairs; what it keeps has been measured on the verification pairs.

    A precision that passes as it is stays plain unless its search found one that loses no more
    recall on the verification pairs either: so a search never makes a bundle worse.
    """

    clip: LoadedClip
    forge: TowerWriter
    recipes: Mapping[str, TowerRecipes]
    settings: ExportSettings
    max_drop: float
    eot: int
    choices: dict[str, MixedPrecision] = field(default_factory=dict)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)  # precision -> its search

    def run(
        self,
        files: Sequence[TowerFiles],
        pairs: Pairs,
        reference: PairEmbeddings,
        plain: Mapping[str, PairEmbeddings],
    ) -> dict[str, PairEmbeddings]:
        """Rewrite files where a search helps; returns the new answers of those precisions."""
        floats, *others = files
        improved = {}
        for each in others:
            precision = each.precision
            failed = not passes(precision, reference, plain[precision], self.max_drop)
            asked = failed if self.settings.search is None else self.settings.search
            if not asked or not self.recipes[precision].searchable:
                continue
            if failed:
                self.settings.tell(f"{precision} loses too much as it is; searching")
            result = search(self.forge, self.recipes[precision], each, self.max_drop, self.settings)
            given = reference, plain[precision]
            row, improved[precision] = self._best(result, each, floats, pairs, given, failed)
            # Before the plain files give way to others.
            self.choices[precision], self.found[precision] = row.choice, result.as_dict(row)
            for tower, path in row.paths.items():
                target = each.image if tower == "image" else each.text
                if path != target:
                    shutil.copyfile(path, target)
        return improved

    def _best(
        self,
        result: SensitivityResult,
        files: TowerFiles,
        floats: TowerFiles,
        pairs: Pairs,
        given: tuple[PairEmbeddings, PairEmbeddings],
        failed: bool,
    ) -> tuple[SensitivityRow, PairEmbeddings]:
        """Return the first attempt that verifies, or plain; all are measured in one pass."""
        reference, plain = given
        names = {f"{files.precision} {i}": row for i, row in enumerate(result.attempts)}
        tried = [
            TowerFiles(name, **row.paths, precise_int8=files.precise_int8, form=files.form)
            for name, row in names.items()
        ]
        if not tried:
            return result.rows[0], plain
        _, found = pair_embeddings(self.clip, [floats, *tried], pairs, eot=self.eot)
        lost = self._drop(reference, plain)
        for name, row in names.items():
            verified = passes(files.precision, reference, found[name], self.max_drop)
            if verified and (failed or self._drop(reference, found[name]) <= lost):
                return row, found[name]
        return result.rows[0], plain

    def _drop(self, reference: PairEmbeddings, found: PairEmbeddings) -> float:
        before, after = (text_to_image(each.image, each.text) for each in (reference, found))
        return recall_drop(before, after)[0]
