"""The options of ``tinyclip-edge export``, grouped by purpose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyclip_edge.cli.options import JsonFlag
from tinyclip_edge.precisions import PRECISIONS, check_precisions
from tinyclip_edge.targets import TARGETS

if TYPE_CHECKING:
    from tinyclip_edge.api.exporting import VerificationRequest
    from tinyclip_edge.config.preset import ExportPreset
    from tinyclip_export.settings import Extras


@dataclass(frozen=True, slots=True)
class PrecisionOptions:
    """Precisions to write, and their settings."""

    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Add int8: dynamic, but static for the image tower of a ResNet."
        ),
    ] = False
    fp16: Annotated[bool, typer.Option("--fp16", help="Add float16, for GPUs.")] = False
    static: Annotated[
        bool,
        typer.Option("--static", help="Add static int8, with activation ranges measured first."),
    ] = False
    precision: Annotated[
        list[str] | None,
        typer.Option(help=f"Add a precision: {', '.join(PRECISIONS)}.", metavar="NAME"),
    ] = None
    target: Annotated[
        str | None,
        typer.Option(
            help=f"Precisions and settings of a target: {', '.join(TARGETS)}, auto (that of this "
            "machine) or a YAML file.",
            show_default="fp32, which gives correct results on every CPU",
        ),
    ] = None
    token_bits: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Bits of the token table: 8, 4, 3 or 32.",
            show_default="the target's",
        ),
    ] = None

    def resolve(self) -> tuple[tuple[str, ...], ExportPreset]:
        """Return the precisions to write and the settings of the target. Raises ConfigError."""
        from tinyclip_edge.api.exporting import preset_of

        preset = preset_of(self.target)
        if self.token_bits is not None:
            preset = preset.with_token_table(self.token_bits)
        names = preset.precisions if self.target is not None else ["fp32"]
        flags = {"int8": self.int8, "fp16": self.fp16, "static": self.static}
        flagged = [name for name, is_set in flags.items() if is_set]
        return check_precisions([*names, *flagged, *(self.precision or [])]), preset


@dataclass(frozen=True, slots=True)
class VerificationOptions:
    """The pairs for verification and calibration, and the gates."""

    data: Annotated[
        str,
        typer.Option(
            help=(
                "Pairs for the verification: starter:val, pairs in any form of data.train, or "
                "a run's YAML file, for its data.val."
            )
        ),
    ] = "starter:val"
    limit: Annotated[int, typer.Option(metavar="N", min=2, help="Use at most this many pairs.")] = (
        1000
    )
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Pairs for static ranges and --search.",
            show_default=(
                "starter:train, or a part of --data that is then excluded from verification"
            ),
        ),
    ] = None
    max_drop: Annotated[
        float,
        typer.Option(
            metavar="X",
            min=0.0,
            help="Points of recall@1 that a precision may lose, plus one standard error; a note "
            "says when the pairs are too few to decide.",
        ),
    ] = 0.5
    search: Annotated[
        bool | None,
        typer.Option(
            "--search/--no-search",
            help="Smooth activations, rank layers by their effect on retrieval, and leave the most "
            "sensitive ones in float; takes minutes.",
            show_default="only if --max-drop is exceeded without it",
        ),
    ] = None
    require_faster: Annotated[
        bool,
        typer.Option(
            "--require-faster", help="Refuse a precision that is slower than fp32 on this machine."
        ),
    ] = False

    def request(self) -> VerificationRequest:
        """Return these options for the library."""
        from tinyclip_edge.api.exporting import VerificationRequest

        return VerificationRequest(
            self.data, self.limit, self.calibration, self.max_drop, self.search, self.require_faster
        )


@dataclass(frozen=True, slots=True)
class FinishOptions:
    """Quantization-aware training before the export."""

    qat: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=(
                "First fine-tune the student with this many steps of quantization-aware "
                "distillation."
            ),
            metavar="STEPS",
            show_default="none",
        ),
    ] = None
    qat_data: Annotated[
        str | None, typer.Option(help="Training pairs of --qat.", show_default="those of the run")
    ] = None


@dataclass(frozen=True, slots=True)
class ContentOptions:
    """Files in addition to the two towers, and the inputs of the towers."""

    static_batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Fix the batch size, and the length of texts, for accelerators that require it.",
            show_default="any batch, texts of any length",
        ),
    ] = None
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Add a classifier without a text tower for the labels in a file, one per line."
        ),
    ] = None
    templates: Annotated[
        Path | None,
        typer.Option(
            help="Prompts for the labels, from a file with one per line; {} stands for the label.",
            show_default="{}",
        ),
    ] = None
    calibrate_labels: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Calibrate the threshold below which a picture is unknown on held-out images, in "
            "a folder per label, or in one folder with --labels, labelled by the run's teacher.",
        ),
    ] = None
    trim_vocab: Annotated[
        Path | None,
        typer.Option(help="Keep only the tokens that the texts of a file need, one per line."),
    ] = None
    embed_preprocessing: Annotated[
        bool,
        typer.Option(
            "--embed-preprocessing", help="Add image towers that take uint8 pictures of any size."
        ),
    ] = False
    embed_tokenizer: Annotated[
        bool,
        typer.Option(
            "--embed-tokenizer",
            help="Add text towers that take strings and, with --embed-preprocessing, image towers "
            "that take JPEG or PNG bytes; they need onnxruntime-extensions.",
        ),
    ] = False
    standalone: Annotated[
        bool,
        typer.Option(
            "--standalone",
            help="Give the pipeline file of transformers.js its own weights, so that pages can "
            "load it without an extra option.",
        ),
    ] = False
    layout: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Add the default precision in another application's form: immich; repeatable.",
        ),
    ] = None

    native: Annotated[
        bool,
        typer.Option(
            "--native",
            help="Add files for the target's own engine: with --target qnn, context binaries for a "
            "chip (package onnxruntime-qnn); with --target coreml, an .mlpackage (coremltools).",
        ),
    ] = False
    soc_model: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="With --native: Qualcomm's number of the chip; 60: X Elite."
        ),
    ] = 60

    def read(self) -> Extras:
        """Read the files of labels and templates. Raises ConfigError, DataError."""
        from tinyclip_export.bundle.extras import read_extras

        return read_extras(
            self.labels,
            self.templates,
            self.layout or (),
            embed_preprocessing=self.embed_preprocessing,
            embed_tokenizer=self.embed_tokenizer,
            standalone=self.standalone,
            static_batch=self.static_batch,
            native=self.native,
            soc_model=self.soc_model,
        )


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Destination of the bundle and the report."""

    out: Annotated[
        Path | None, typer.Option(help="Bundle folder.", show_default="bundles/<name>")
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle at --out.")] = False
    json_output: JsonFlag = False


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """All options of an export."""

    precisions: PrecisionOptions = PrecisionOptions()
    verification: VerificationOptions = VerificationOptions()
    finish: FinishOptions = FinishOptions()
    contents: ContentOptions = ContentOptions()
    output: OutputOptions = OutputOptions()


DEFAULTS = ExportOptions()
