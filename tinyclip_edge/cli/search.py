"""``tinyclip-edge search``: pictures of an index by text or picture."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyclip_edge.cli.device_options import DeviceOptions
from tinyclip_edge.cli.option_groups import with_option_groups
from tinyclip_edge.cli.options import (
    DEFAULT_INDEX,
    BundleOption,
    InOption,
    JsonFlag,
    ThreadsOption,
    open_bundle,
    print_json,
    recall_line,
    say,
    say_result,
)
from tinyclip_edge.errors import ConfigError, one_line
from tinyclip_edge.paths import is_file
from tinyclip_edge.runtime.image_formats import is_image_name
from tinyclip_edge.runtime.video_keys import shown_key, split_key
from tinyclip_edge.units import counted

if TYPE_CHECKING:
    from tinyclip_edge.runtime.hits import Hit


@with_option_groups
def search(
    text: Annotated[
        str | None,
        typer.Argument(help="What the pictures show.", show_default="none, with --image"),
    ] = None,
    index: InOption = DEFAULT_INDEX,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="Search for pictures like this one; repeat for several.", metavar="FILE"),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--not", help="What the pictures do not show; repeat for several."),
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures to show.")] = 10,
    min_score: Annotated[
        float | None,
        typer.Option(
            metavar="X", min=-1.0, max=1.0, help="Lowest cosine to show.", show_default="any"
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page of the pictures.", metavar="FILE")
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Show the pictures in the browser.")
    ] = False,
    copy_to: Annotated[
        Path | None, typer.Option(help="Copy the pictures into a folder.", metavar="DIR")
    ] = None,
    thumbnails: Annotated[
        bool | None,
        typer.Option(
            "--thumbnails/--no-thumbnails",
            help="Show the pictures between the lines.",
            show_default="in terminals that support it (kitty, iTerm2, WezTerm)",
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare every picture, even if the index has a graph.")
    ] = False,
    bundle: BundleOption = None,
    threads: ThreadsOption = None,
    json_output: JsonFlag = False,
    *,
    device: DeviceOptions,
) -> None:
    """Search an index of pictures by text, by picture, or by both."""
    if text is None and not image:
        raise ConfigError("search needs a text or --image FILE")
    if text is not None and is_image_name(text) and is_file(Path(text)):
        raise ConfigError(f"{text} is a picture; search by it with --image {text}")
    from tinyclip_edge.runtime.index import ImageIndex

    protocol = None if json_output else _protocol(thumbnails)
    pictures = ImageIndex.load(index, mmap=True, exact=exact)
    clip = open_bundle(bundle, threads=threads, index=pictures, device=device)
    parts = dict.fromkeys([*([] if text is None else [text]), *(image or ())], 1.0)
    hits = clip.search(parts, pictures, top, negative=without, min_score=min_score)
    if pictures.graph is not None and not json_output:
        say(f"{recall_line(pictures.graph.facts)}; --exact compares all")
    if html is not None or open_browser:
        _show(hits, text or ", ".join(map(str, image or ())), html, open_browser)
    if copy_to is not None:
        from tinyclip_edge.collection.copies import copy_pictures

        gone = copy_pictures([hit.key for hit in hits], copy_to)
        say_result(f"{copy_to}: {counted(len(hits) - len(gone), 'picture')} copied")
        for key in gone:
            say_result(f"{shown_key(key)}: not copied, gone or no picture; index its folder again")
    if json_output:
        results = [_result(hit) for hit in hits]
        recall = None if pictures.graph is None else pictures.graph.facts.recall
        answer = {"index": str(index), "pictures": len(pictures), "recall": recall}
        print_json({**answer, "results": results})
    else:
        _print(hits, min_score, protocol)


def _result(hit: Hit) -> dict[str, object]:
    path, seconds = split_key(hit.key)
    frame = {} if seconds is None else {"video": path, "seconds": seconds}
    return {"image": hit.key, "score": hit.score, **frame}


def _show(hits: Sequence[Hit], title: str, page: Path | None, open_browser: bool) -> None:
    from tinyclip_edge.collection.results_page import write_results_page

    if page is None:
        import tempfile

        page = Path(tempfile.mkdtemp(prefix="tinyclip-edge-")) / "search.html"
    write_results_page(page, title, hits)
    say_result(str(page))
    if open_browser:
        import webbrowser

        webbrowser.open(page.absolute().as_uri())


def _protocol(thumbnails: bool | None) -> str | None:
    """Return the protocol for pictures in the terminal, None to show none. Raises ConfigError."""
    if thumbnails is False or (thumbnails is None and not sys.stdout.isatty()):
        return None
    from tinyclip_edge.collection.terminal_pictures import picture_protocol

    protocol = picture_protocol(os.environ)
    if thumbnails and protocol is None:
        raise ConfigError("this terminal cannot show pictures; use --open or --html FILE")
    return protocol


def _print(hits: Sequence[Hit], min_score: float | None, protocol: str | None) -> None:
    for hit in hits:
        typer.echo(f"{hit.score:6.3f}  {one_line(shown_key(hit.key))}")
        if protocol is not None:
            from tinyclip_edge.collection.terminal_pictures import thumbnail_sequence

            sys.stdout.write(thumbnail_sequence(hit.key, protocol))
    if not hits:
        least = "" if min_score is None else f" with a score of {min_score:g} or more"
        say(f"no pictures{least}")
