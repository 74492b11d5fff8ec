"""``tinyclip-edge check``: verify a bundle's results on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.cli.device_options import DeviceOptions
from tinyclip_edge.cli.option_groups import with_option_groups
from tinyclip_edge.cli.options import JsonFlag, ThreadsOption, print_json, print_tables
from tinyclip_edge.errors import VerificationError


@with_option_groups
def check(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    precision: Annotated[
        str | None, typer.Option(help="One precision.", show_default="all of the bundle")
    ] = None,
    threads: ThreadsOption = None,
    json_output: JsonFlag = False,
    *,
    device: DeviceOptions,
) -> None:
    """Check that a bundle is complete and correct on this machine.

    Compares the hashes of its files and replays its golden vectors: inputs, with the results of the
    machine where it was made. Files for other engines are run by them, on the CPU, if their
    packages are installed. Exit code 3 if results differ.
    """
    from tinyclip_edge.api.bundles import check as check_bundle

    result = check_bundle(bundle, precision=precision, threads=threads, **device.arguments())
    if json_output:
        print_json(result.as_dict())
    else:
        print_tables(result.tables())
    if not result.passed:
        failures = "; ".join(result.failures)
        raise VerificationError(f"bundle {bundle} fails on this machine: {failures}")
