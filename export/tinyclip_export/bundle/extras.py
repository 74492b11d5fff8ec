"""Optional files of a bundle: pipeline file, label classifier, image towers for uint8 pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.errors import ConfigError
from tinyclip_export.settings import Extras

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip


def read_extras(
    labels: Path | None,
    templates: Path | None,
    layouts: Sequence[str] = (),
    **options: Any,  # noqa: ANN401
) -> Extras:
    """Return the requests, with the lines of both files. Raises ConfigError, DataError."""
    from tinyclip_edge.paths import read_lines
    from tinyclip_export.bundle.extension_operators import require_extension
    from tinyclip_export.bundle.label_classifier import check_labels
    from tinyclip_export.bundle.layouts import check_layouts

    if templates is not None and labels is None:
        raise ConfigError("--templates are prompts for labels; add --labels FILE")
    if options.get("embed_tokenizer"):
        require_extension()
    names = read_lines(labels, "labels") if labels is not None else ()
    check_labels(names)
    prompts = read_lines(templates, "templates") if templates is not None else ("{}",)
    return Extras(labels=names, templates=prompts, layouts=check_layouts(layouts), **options)


def write_extras(
    clip: LoadedClip,
    folder: Path,
    precise: Mapping[str, bool],
    requests: Extras,
    *,
    pipeline: bool = True,
) -> dict[str, Any]:
    """Write and verify the optional files in each precision; return the manifest's ``extras``.

    `precise` maps the bundle's precisions to whether x86 without VNNI must compute in u8 x u8;
    without `pipeline` there is no file of both towers.
    Raises VerificationError when a file's outputs differ from the towers', ConfigError or DataError
    for a request that cannot be fulfilled.
    """
    from tinyclip_export.bundle.label_classifier import write_classifiers
    from tinyclip_export.bundle.pipeline_file import combined_path, write_combined
    from tinyclip_export.bundle.uint8_image_tower import write_pixel_towers

    precisions = list(precise)
    entries: dict[str, Any] = {}
    if pipeline:
        for precision in precisions:
            write_combined(folder, precision, clip, share_weights=not requests.standalone)
        entries["pipeline"] = {
            "files": {precision: combined_path(precision) for precision in precisions},
            "weights": "own" if requests.standalone else "in the tower files",
        }
    if requests.labels:
        entries["classifier"] = write_classifiers(
            clip, folder, precise, labels=requests.labels, templates=requests.templates
        )
    if requests.embed_preprocessing:
        entries["uint8"] = write_pixel_towers(clip, folder, precisions)
    if requests.vocabulary is not None:
        entries["vocabulary"] = requests.vocabulary
    if requests.qat_report is not None:
        entries["finished"] = requests.qat_report
    return entries
