"""``tinyclip-edge check``: verify a bundle's results on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.cli.options import JsonFlag, ThreadsOption, print_json, print_tables
from tinyclip_edge.errors import ConfigError, VerificationError


def check(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    precision: Annotated[
        str | None, typer.Option(help="One precision.", show_default="all of the bundle")
    ] = None,
    threads: ThreadsOption = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where to run: cpu, cuda, tensorrt, coreml, directml, openvino, qnn, webgpu, …"
        ),
    ] = "cpu",
    device_option: Annotated[
        list[str] | None,
        typer.Option(help="An option of the device's provider; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Check that a bundle is whole and right on this machine.

    The hashes of its files are compared, and its golden vectors replayed: inputs with the results
    of the machine where it was made. Exit code 3 if they differ.
    """
    from tinyclip_edge.api.bundles import check as check_bundle

    result = check_bundle(
        bundle,
        precision=precision,
        threads=threads,
        device=device,
        device_options=_settings(device_option or []),
    )
    if json_output:
        print_json(result.as_dict())
    else:
        print_tables(result.tables())
    if not result.passed:
        failures = "; ".join(result.failures)
        raise VerificationError(f"bundle {bundle} fails on this machine: {failures}")


def _settings(pairs: list[str]) -> dict[str, str]:
    """Return ``{key: value}``; raise ConfigError for a word without both."""
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ConfigError(f"--device-option {pair!r}: write KEY=VALUE")
        settings[key] = value
    return settings
