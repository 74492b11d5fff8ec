"""The bundle's manifest from what an export knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tinyclip_edge
from tinyclip_edge.models import count_parameters, weights_hash
from tinyclip_edge.runtime.bundle import Manifest, list_files

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip
    from tinyclip_export.export_report import ExportReport


def build_manifest(
    clip: LoadedClip,
    report: ExportReport,
    *,
    recipe: dict[str, Any],
    eot: int,
    golden: dict[str, Any],
) -> Manifest:
    """Return the manifest of the files that stand in the report's folder now."""
    source = weights_hash(clip.model)
    count = count_parameters(clip.model)
    precisions = report.precisions
    return Manifest(
        created_by=f"tinyclip-edge {tinyclip_edge.__version__}",
        name=report.name,
        source={"model": clip.name, "sha256": source},
        model_hash=source,
        image_size=clip.image_size,
        embedding_dim=clip.embedding_dim,
        context_length=clip.context_length,
        logit_scale=clip.logit_scale,
        logit_bias=clip.logit_bias,
        eot_token_id=eot,
        parameters={
            "image": count.image,
            "text": count.text,
            "token_embedding": count.token_embedding,
        },
        default_precision="int8" if "int8" in precisions else precisions[0],
        towers=report.towers,
        files=list_files(report.folder),
        recipe=recipe,
        verification=report.verification,
        golden=golden,
    )
