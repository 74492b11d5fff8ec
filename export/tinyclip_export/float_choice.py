"""Choose the float image tower of convolutions if int8 is not close to it, or is slower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tinyclip_edge.errors import VerificationError
from tinyclip_edge.precisions import PRECISIONS
from tinyclip_export.export_job import ExportJob, FloatTowers
from tinyclip_export.quantization.float32 import FloatRecipe
from tinyclip_export.quantization.registry import TowerRecipes
from tinyclip_export.verification.embeddings import TimedEmbeddings
from tinyclip_export.verification.gates import check_latency, check_values, least_cosine
from tinyclip_export.verification.metrics import cosine_stats

MIN_MS = 5.0  # of fp32; below it calls and noise dominate, so speed is not judged


def with_float_images(
    job: ExportJob,
    towers: FloatTowers,
    recipes: Mapping[str, TowerRecipes],
    reference: TimedEmbeddings,
    embeddings: dict[str, TimedEmbeddings],
) -> dict[str, TowerRecipes]:
    """Return the recipes, with recipe and file replaced where float is the better image tower.

    This applies to image towers of convolutions, in precisions whose own recipe is meant for
    transformers (int8, uint8). `embeddings` then get those of the fp32 tower.
    """
    chosen = dict(recipes)
    for precision, tower_recipes in recipes.items():
        if not reference.convolutional or not PRECISIONS[precision].recipe.startswith("dynamic"):
            continue
        reason = why_float(precision, reference, embeddings[precision])
        if reason is None:
            continue
        recipe = FloatRecipe(reason)
        towers.writer.write("image", recipe, job.paths(precision)["image"])
        chosen[precision] = replace(tower_recipes, image=recipe)
        exported, exact = embeddings[precision], embeddings["fp32"]
        milliseconds = {**exported.milliseconds, "image": exported.float_ms["image"]}
        embeddings[precision] = replace(exported, image=exact.image, milliseconds=milliseconds)
    return chosen


def why_float(precision: str, reference: TimedEmbeddings, exported: TimedEmbeddings) -> str | None:
    """Return why the image tower of a precision is worse than fp32's; None if it is not."""
    ms, float_ms = exported.milliseconds["image"], exported.float_ms["image"]
    cosines = cosine_stats(reference.image, exported.image)
    label = f"{precision} image"
    try:
        check_values(precision, label, cosines, least_cosine(precision, convolutional=True))
        if float_ms >= MIN_MS:
            check_latency(label, ms, float_ms)
    except VerificationError as error:
        return str(error)
    return None


def float_notes(recipes: Mapping[str, TowerRecipes]) -> list[str]:
    """Return a line for each precision whose image tower stays float."""
    return [
        f"the {precision} file of the image tower is float, a copy of fp32: {recipe.image.reason}"
        for precision, recipe in recipes.items()
        if isinstance(recipe.image, FloatRecipe)
    ]
