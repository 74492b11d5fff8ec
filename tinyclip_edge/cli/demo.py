"""``tinyclip-edge demo``: the page in the browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tinyclip_edge.cli.option_groups import with_option_groups
from tinyclip_edge.cli.options import MODEL_HELP, ThreadsOption, say


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Address of the page and rights of its visitors."""

    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="Port to listen on.")] = (
        7860
    )
    share: Annotated[bool, typer.Option("--share", help="Ask Gradio for a public link.")] = False
    open_browser: Annotated[
        bool, typer.Option("--open", help="Also open the page in the browser.")
    ] = False
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "Additional host name that browsers may use to reach the page; repeat for "
                "several, * for any."
            ),
            show_default="none",
        ),
    ] = None
    trust_visitors: Annotated[
        bool,
        typer.Option(
            "--trust-visitors",
            help=(
                "Let every visitor open folders of this machine and add models; otherwise only "
                "visitors on this machine can, and with --share or a public --host nobody can."
            ),
        ),
    ] = False


@dataclass(frozen=True, slots=True)
class StaticPageOptions:
    """The page that runs a bundle in the browser."""

    web: Annotated[
        Path | None,
        typer.Option(help="Serve the page that runs this bundle in the browser instead."),
    ] = None
    ort: Annotated[
        Path | None,
        typer.Option(
            help="With --web: folder of the npm package onnxruntime-web.",
            show_default="the nearest node_modules, or the user's cache",
        ),
    ] = None


@with_option_groups
def demo(
    *,
    teacher: Annotated[
        str, typer.Option(help="The model to compare with. " + MODEL_HELP)
    ] = "starter-teacher",
    student: Annotated[
        list[str] | None,
        typer.Option(
            help="Model to show; repeat for several. " + MODEL_HELP,
            show_default="the newest run and the newest bundle",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of images to search.", show_default="starter kit")
    ] = None,
    threads: ThreadsOption = None,
    server: ServerOptions,
    page: StaticPageOptions,
) -> None:
    """Serve a page that compares teacher and student."""
    if page.web is not None:
        _serve_web(page.web, page.ort, server)
        return
    from tinyclip_demo import Visitors, launch, open_gallery
    from tinyclip_demo.model_registry import split_source
    from tinyclip_edge.evaluation import check_openable
    from tinyclip_edge.models import newest_models

    names = [teacher, *(student or newest_models())]
    for name in names:
        check_openable(split_source(name)[0])
    say("models: " + ", ".join(names) + " (they load when the page opens)")
    launch(
        names,
        open_gallery(images),
        host=server.host,
        port=server.port,
        share=server.share,
        open_browser=server.open_browser,
        threads=threads,
        visitors=Visitors(server.allow_host or (), server.trust_visitors),
    )


def _serve_web(bundle: Path, ort: Path | None, server: ServerOptions) -> None:
    from tinyclip_demo.web import serve_web

    serve_web(
        bundle,
        ort,
        host=server.host,
        port=server.port,
        open_browser=server.open_browser,
        allow_hosts=server.allow_host or (),
    )
