"""``tinyclip-edge classify``: label pictures with a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyclip_edge.cli.device_options import DeviceOptions
from tinyclip_edge.cli.option_groups import with_option_groups
from tinyclip_edge.cli.options import (
    BundleOption,
    DecodeOption,
    JsonFlag,
    PrecisionOption,
    TemplateOption,
    ThreadsOption,
    open_bundle,
    print_json,
    say,
)
from tinyclip_edge.errors import DataError, one_line
from tinyclip_edge.paths import is_file, is_folder, read_lines


@with_option_groups
def classify(
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    labels: Annotated[
        str, typer.Option(help="Labels: a file with one per line, or a,b,c.", metavar="FILE|a,b,c")
    ],
    template: TemplateOption = None,
    top: Annotated[
        int, typer.Option(metavar="N", min=1, help="Labels to show for each picture.")
    ] = 5,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="X|calibrated",
            help="Lowest probability to show; a picture without such a label is unknown. "
            "calibrated: the bundle's own, for the labels it was calibrated for.",
            show_default="0",
        ),
    ] = None,
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    decode: DecodeOption = "exact",
    threads: ThreadsOption = None,
    json_output: JsonFlag = False,
    *,
    device: DeviceOptions,
) -> None:
    """Classify pictures: which of the labels fits best."""
    from tinyclip_edge.runtime.confidence import decision
    from tinyclip_edge.runtime.prompts import check_prompts

    names, templates = _label_names(labels), tuple(template or ("{}",))
    paths = list(_expanded(images))
    clip = open_bundle(bundle, precision=precision, threads=threads, decode=decode, device=device)
    lowest = _number(threshold)
    least = decision(clip.confidence, names, templates, lowest).threshold or 0.0
    check_prompts(clip, names, templates)  # first, so that later errors are the pictures' fault
    results: list[dict[str, Any]] = []
    broken = False
    for path in paths:
        try:
            answer = clip.classify(Path(path), names, templates, threshold=lowest)
        except DataError as error:
            broken = True
            say(str(error))
            results.append({"image": path, "error": str(error)})
            continue
        shown = [row for row in answer[:top] if row[1] >= least]
        rows = [{"label": label, "probability": chance} for label, chance in shown]
        judged = {"familiar": answer.familiar, "unknown": answer.unknown}
        results.append({"image": path, **judged, "labels": rows})
        if answer.familiar is False:
            say(
                f"{one_line(path)}: unlike the pictures that {clip.name} was trained on; do not "
                "rely on its labels"
            )
        if not json_output:
            _print(path, shown, least, named=len(paths) > 1)
    if json_output:
        print_json({"model": clip.name, "precision": clip.precision, "images": results})
    if broken:
        raise typer.Exit(DataError.exit_code)


def _number(threshold: str | None) -> float | str | None:
    """Return a threshold as a number if it is one."""
    try:
        return None if threshold is None else float(threshold)
    except ValueError:
        return threshold


def _label_names(labels: str) -> Sequence[str]:
    if is_file(Path(labels)):
        return read_lines(Path(labels), "labels")
    names = [name.strip() for name in labels.split(",") if name.strip()]
    if not names or (len(names) == 1 and Path(names[0]).suffix):
        raise DataError(f"--labels {labels}: no such file; write a file's name, or labels as a,b,c")
    return names


def _expanded(images: Sequence[Path]) -> Iterator[str]:
    from tinyclip_edge.runtime.picture_files import folder_pictures

    for image in images:
        if is_folder(image):
            yield from folder_pictures([image])
        else:
            yield str(image)


def _print(
    path: str, labels: Sequence[tuple[str, float]], threshold: float, *, named: bool
) -> None:
    if named:
        typer.echo(one_line(path))
    indent = "  " if named else ""
    for label, chance in labels:
        typer.echo(f"{indent}{100 * chance:5.1f} %  {one_line(label)}")
    if not labels:
        typer.echo(f"{indent}unknown: no label has {100 * threshold:.4g} % or more")
