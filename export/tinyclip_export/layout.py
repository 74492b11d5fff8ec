"""Names that a bundle fixes: tower inputs, outputs, axes and files; no torch behind this module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tinyclip_edge.errors import ConfigError, did_you_mean

MIN_TOKENS = 2  # start and end of text
SUFFIX = {"fp32": "", "int8": "_quantized"}  # what transformers.js appends for a dtype


@dataclass(frozen=True, slots=True)
class TowerIO:
    """Input, output, free axes and file stem of one tower."""

    input_name: str
    output_name: str
    dynamic_axes: dict[int, str]
    stem: str

    def path(self, precision: str) -> str:
        """Return the file's path inside a bundle."""
        return f"onnx/{self.stem}{SUFFIX[precision]}.onnx"


IMAGE_IO = TowerIO("pixel_values", "image_embeds", {0: "batch"}, "vision_model")
TEXT_IO = TowerIO("input_ids", "text_embeds", {0: "batch", 1: "sequence"}, "text_model")
TOWER_IO = {"image": IMAGE_IO, "text": TEXT_IO}


def check_precisions(precisions: Iterable[str]) -> tuple[str, ...]:
    """Return the precisions without repeats; raise ConfigError for an unknown one or none."""
    wanted = tuple(dict.fromkeys(precisions))
    if not wanted:
        raise ConfigError(f"no precision to export; known: {', '.join(SUFFIX)}")
    for precision in wanted:
        if precision not in SUFFIX:
            raise ConfigError(
                f"precision '{precision}' is unknown{did_you_mean(precision, SUFFIX)}"
            )
    return wanted
