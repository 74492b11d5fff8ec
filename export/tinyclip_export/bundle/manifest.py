"""The manifest of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tinyclip_edge
from tinyclip_edge.models import count_parameters, weights_hash
from tinyclip_edge.runtime.bundle import Manifest, list_files
from tinyclip_export.layout import TOWER_IO

if TYPE_CHECKING:
    from tinyclip_export.export_job import ExportJob, FloatTowers


def build_manifest(
    job: ExportJob,
    towers: FloatTowers,
    *,
    verification: Mapping[str, Any],
    recipe: Mapping[str, Any],
    golden: Mapping[str, Any],
    extras: Mapping[str, Any],
    target: Mapping[str, Any],
    familiarity: Mapping[str, Any],
) -> Manifest:
    """Return the manifest of all files that are in the job's folder."""
    clip = job.clip
    source = weights_hash(clip.model)
    count = count_parameters(clip.model)
    return Manifest(
        created_by=f"tinyclip-edge {tinyclip_edge.__version__}",
        name=job.name,
        source={"model": clip.name, "sha256": source},
        model_hash=source,
        image_size=clip.image_size,
        embedding_dim=clip.embedding_dim,
        context_length=clip.context_length,
        logit_scale=clip.logit_scale,
        logit_bias=clip.logit_bias,
        eot_token_id=towers.special.end,
        parameters={
            "image": count.image,
            "text": count.text,
            "token_embedding": count.token_embedding,
        },
        default_precision=job.default_precision,
        towers={
            tower: {precision: job.bundle_files(precision)[tower] for precision in job.precisions}
            for tower in TOWER_IO
        },
        files=list_files(job.folder),
        recipe=recipe,
        verification=verification,
        golden=golden,
        extras=extras,
        inputs=towers.form.as_dict(),
        target=target,
        tokenizer=towers.special.plain,
        familiarity=familiarity,
        matryoshka={"dimensions": list(clip.prefixes)} if clip.prefixes else {},
    )
