"""Choose layers to leave in float for precisions that lose too much, or for all on request."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinyclip_export.export_job import ExportJob, FloatTowers
from tinyclip_export.quantization.mixed_precision import MixedPrecision
from tinyclip_export.quantization.registry import TowerRecipes
from tinyclip_export.sensitivity.search import SensitivityResult, SensitivityRow, search
from tinyclip_export.verification.embeddings import TimedEmbeddings, TowerFiles, pair_embeddings
from tinyclip_export.verification.gates import passes
from tinyclip_export.verification.metrics import recall_drop, text_to_image


@dataclass(frozen=True, slots=True)
class LayerSelection:
    """Results of the precisions that were searched; all mappings are by precision."""

    embeddings: Mapping[str, TimedEmbeddings]  # of the selected files, on the verification pairs
    choices: Mapping[str, MixedPrecision]
    searches: Mapping[str, dict[str, Any]]  # the manifest's form


def select_layers(
    job: ExportJob,
    towers: FloatTowers,
    recipes: Mapping[str, TowerRecipes],
    files: Sequence[TowerFiles],
    reference: TimedEmbeddings,
    baselines: Mapping[str, TimedEmbeddings],
) -> LayerSelection:
    """Search precisions on the calibration pairs, and replace files where that helps.

    `files` starts with fp32; `baselines` are the embeddings of the files as they are. A precision
    that passes its gates keeps its files unless the search found ones that lose no more recall on
    the verification pairs either, so that a search never makes a bundle worse.
    """
    float_files, *others = files
    settings, selector = job.settings, _Selector(job, towers, reference, float_files)
    embeddings, choices, searches = {}, {}, {}
    for each in others:
        precision = each.precision
        baseline = baselines[precision]
        failed = not passes(precision, reference, baseline, job.max_drop)
        requested = failed if settings.search is None else settings.search
        if not requested or not recipes[precision].searchable:
            continue
        if failed:
            settings.notify(f"{precision} loses too much as it is; searching")
        result = search(towers.writer, recipes[precision], each, job.max_drop, settings)
        row, embeddings[precision] = selector.best(result, each, baseline, failed=failed)
        # Before the files are replaced: their sizes are part of the figures.
        choices[precision], searches[precision] = row.choice, result.as_dict(row)
        for tower, path in row.paths.items():
            target = each.image if tower == "image" else each.text
            if path != target:
                shutil.copyfile(path, target)
    return LayerSelection(embeddings, choices, searches)


@dataclass(frozen=True, slots=True)
class _Selector:
    """Judges the proposals of a search on the verification pairs."""

    job: ExportJob
    towers: FloatTowers
    reference: TimedEmbeddings
    float_files: TowerFiles

    def best(
        self,
        result: SensitivityResult,
        files: TowerFiles,
        baseline: TimedEmbeddings,
        *,
        failed: bool,
    ) -> tuple[SensitivityRow, TimedEmbeddings]:
        """Return the first attempt that verifies, or the baseline; all are measured in one pass."""
        rows = {f"{files.precision} {i}": row for i, row in enumerate(result.attempts)}
        candidates = [
            TowerFiles(name, **row.paths, precise_int8=files.precise_int8, form=files.form)
            for name, row in rows.items()
        ]
        if not candidates:
            return result.rows[0], baseline
        _, embeddings = pair_embeddings(
            self.job.clip,
            [self.float_files, *candidates],
            self.job.pairs,
            eot=self.towers.special.end,
        )
        baseline_drop = self._drop(baseline)
        for name, row in rows.items():
            exported = embeddings[name]
            verified = passes(files.precision, self.reference, exported, self.job.max_drop)
            if verified and (failed or self._drop(exported) <= baseline_drop):
                return row, exported
        return result.rows[0], baseline

    def _drop(self, exported: TimedEmbeddings) -> float:
        before, after = (text_to_image(e.image, e.text) for e in (self.reference, exported))
        return recall_drop(before, after)[0]
