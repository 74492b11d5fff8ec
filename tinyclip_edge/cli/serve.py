"""``tinyclip-edge serve``: serve a bundle over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.cli.device_options import DeviceOptions
from tinyclip_edge.cli.option_groups import with_option_groups
from tinyclip_edge.cli.options import (
    DecodeOption,
    PrecisionOption,
    ThreadsOption,
    open_bundle,
    say_result,
)
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.paths import read_lines

KEY_VARIABLE = "TINYCLIP_EDGE_API_KEY"


@with_option_groups
def serve(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="A bundle folder.", show_default="the newest folder in bundles/"),
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(
            help="An index made by `tinyclip-edge index`, for /search; read again when it changes. "
            "Responses contain its keys, which are paths on this machine.",
            metavar="INDEX",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0: a free one.")
    ] = 8080,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Another host name that clients may use; repeat for several, * for any.",
            show_default="none",
        ),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="File of API keys, one per line; every request except /health needs one.",
            show_default=f"the environment's {KEY_VARIABLE}, if set",
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Texts or pictures that the model embeds at once."),
    ] = 32,
    precision: PrecisionOption = None,
    decode: DecodeOption = "exact",
    threads: ThreadsOption = None,
    *,
    device: DeviceOptions,
) -> None:
    """Serve embeddings, classification and search over HTTP."""
    from tinyclip_edge.access import HostRule
    from tinyclip_edge.serve import ServerLimits, create_app
    from tinyclip_edge.serve import serve as run_server

    app = create_app(
        clip := open_bundle(
            bundle, precision=precision, threads=threads, decode=decode, device=device
        ),
        index=index,
        rule=HostRule(host, allow_host or ()),
        keys=_keys(key_file),
        limits=ServerLimits(batch=batch),
    )
    run_server(
        app, host=host, port=port,
        started=lambda address: say_result(f"{clip.name} ({clip.precision}) at {address}"),
    )  # fmt: skip


def _keys(path: Path | None) -> list[str]:
    if path is not None:
        return list(read_lines(path, "keys"))
    key = os.environ.get(KEY_VARIABLE)
    if key is not None and not key.strip():
        raise ConfigError(f"{KEY_VARIABLE} is empty; unset it, or give it a key")
    return [] if key is None else [key.strip()]
