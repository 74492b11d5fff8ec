"""One HTML file with the pictures of a search."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from tinyclip_edge.errors import DataError, MissingExtraError, one_line
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.runtime.hits import Hit
from tinyclip_edge.runtime.video import open_picture
from tinyclip_edge.runtime.video_keys import shown_key, split_key

EDGE = 256  # pixels of a thumbnail's longer side
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px system-ui, sans-serif; margin: 1rem; color-scheme: light dark }}
main {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)) }}
figure {{ margin: 0 }} img {{ max-width: 100%; height: auto }}
figcaption {{ overflow-wrap: anywhere; font-size: .85rem }}
</style>
<h1>{title}</h1>
<main>
{figures}
</main>
"""


def write_results_page(path: Path, title: str, hits: Sequence[Hit]) -> None:
    """Write a page of thumbnails, scores and links to the files; it needs no other file.

    A picture that is gone or broken is replaced by the reason. Raise DataError if writing fails.
    """
    page = _PAGE.format(title=_escaped(title), figures="\n".join(map(_figure, hits)))
    with file_written_aside(path) as file:
        file.write(page.encode("utf-8", "backslashreplace"))


def _figure(hit: Hit) -> str:
    path, seconds = split_key(hit.key)
    caption = f"<figcaption>{hit.score:.3f} {_escaped(shown_key(hit.key))}</figcaption>"
    try:
        picture = open_picture(hit.key, 2 * EDGE).copy()
    except (DataError, MissingExtraError) as error:
        return f"<figure><p>{_escaped(str(error))}</p>{caption}</figure>"
    picture.thumbnail((EDGE, EDGE))
    content = io.BytesIO()
    picture.save(content, "webp", quality=80)
    source = base64.b64encode(content.getvalue()).decode()
    link = html.escape(Path(path).absolute().as_uri())
    if seconds is not None:
        link += f"#t={seconds}"  # where browsers begin to play
    image = f'<img loading="lazy" alt="" src="data:image/webp;base64,{source}">'
    return f'<figure><a href="{link}">{image}</a>{caption}</figure>'


def _escaped(text: str) -> str:
    return html.escape(one_line(text))
