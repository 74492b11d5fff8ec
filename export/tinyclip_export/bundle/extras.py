"""What an export writes beside the towers: pipeline file, label classifier, pixels inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.errors import ConfigError

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip


@dataclass(frozen=True, slots=True)
class Extras:
    """Requests beyond the two towers."""

    labels: tuple[str, ...] = ()  # classes of a classifier without a text tower
    templates: tuple[str, ...] = ("{}",)  # prompts that each label is put into
    embed_preprocessing: bool = False  # an image tower that takes uint8 of any size
    standalone: bool = False  # the pipeline's file with weights of its own
    vocabulary: dict[str, Any] | None = None  # what trim_vocabulary reports
    finished: dict[str, Any] | None = None  # what a finish with rounded towers reports
    static_batch: int | None = None  # rows that all towers then take, texts of full length

    @property
    def prompts(self) -> list[str]:
        """Texts that the classifier's labels stand for."""
        return [
            template.replace("{}", label) for label in self.labels for template in self.templates
        ]


NO_EXTRAS = Extras()


def read_extras(
    labels: Path | None,
    templates: Path | None,
    **others: Any,  # noqa: ANN401
) -> Extras:
    """Return the requests with the lines of both files; raise ConfigError, DataError."""
    from tinyclip_export.bundle.label_classifier import check_labels, read_lines

    if templates is not None and labels is None:
        raise ConfigError("--templates says how labels are put into prompts; add --labels FILE")
    names = read_lines(labels, "labels") if labels is not None else ()
    check_labels(names)
    prompts = read_lines(templates, "templates") if templates is not None else ("{}",)
    return Extras(labels=names, templates=prompts, **others)


def write_extras(
    clip: LoadedClip, folder: Path, precise: Mapping[str, bool], wanted: Extras
) -> dict[str, Any]:
    """Write and verify them in each precision; return the manifest's ``extras``.

    `precise` has the bundle's precisions, and whether x86 without VNNI must compute one in
    u8 x u8. Raises VerificationError when a file does not answer as the towers do, ConfigError or
    DataError for a request that cannot be met.
    """
    from tinyclip_export.bundle.label_classifier import write_classifiers
    from tinyclip_export.bundle.pipeline_file import combined_path, write_combined
    from tinyclip_export.bundle.uint8_image_tower import write_pixel_towers

    precisions = list(precise)
    for precision in precisions:
        write_combined(folder, precision, clip, share_weights=not wanted.standalone)
    made: dict[str, Any] = {
        "pipeline": {
            "files": {precision: combined_path(precision) for precision in precisions},
            "weights": "own" if wanted.standalone else "in the tower files",
        }
    }
    if wanted.labels:
        made["classifier"] = write_classifiers(
            clip, folder, precise, labels=wanted.labels, templates=wanted.templates
        )
    if wanted.embed_preprocessing:
        made["uint8"] = write_pixel_towers(clip, folder, precisions)
    if wanted.vocabulary is not None:
        made["vocabulary"] = wanted.vocabulary
    if wanted.finished is not None:
        made["finished"] = wanted.finished
    return made
