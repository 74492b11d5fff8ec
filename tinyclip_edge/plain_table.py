"""Tables that show names from files as they are."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text


class PlainTable(Table):
    """A rich table without markup in strings, and with control characters escaped.

    Otherwise a name in brackets would be read as a style or fail, and an escape sequence in it
    would reach the terminal. Pass styled cells as rich's Text.
    """

    def __init__(
        self,
        *,
        title: str | None = None,
        caption: str | None = None,
        **options: Any,  # noqa: ANN401 - rich's
    ) -> None:
        super().__init__(**options)
        if title:
            self.title = plain_text(title, str(self.title_style or "table.title"))
        if caption:
            self.caption = plain_text(caption, str(self.caption_style or "table.caption"))

    def add_row(
        self,
        *cells: RenderableType | None,
        style: Any = None,  # noqa: ANN401 - rich's StyleType
        end_section: bool = False,
    ) -> None:
        """Add a row of strings or of Text."""
        plain = (plain_text(cell) if isinstance(cell, str) else cell for cell in cells)
        super().add_row(*plain, style=style, end_section=end_section)


def plain_text(text: str, style: str = "") -> Text:
    """Return any text with control characters escaped, except line breaks."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    return Text(text, style)
