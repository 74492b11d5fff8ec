"""Options that take several values after their name: ``--data A B C``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand


def spread(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return the words with an option's name before each of its values.

    The values of an option end at the next option.
    """
    spread_words: list[str] = []
    current, values = "", 0  # the option whose values follow, and how many were read
    for place, word in enumerate(words):
        if word == "--":
            return [*spread_words, *words[place:]]
        if word.startswith("-") and word != "-":
            current, values = (word if word in options else ""), 0
        elif current:
            values += 1
            if values > 1:
                spread_words.append(current)
        spread_words.append(word)
    return spread_words


def taking_several(options: Sequence[str]) -> type[TyperCommand]:
    """Return a kind of command whose ``options`` take several values."""

    class SeveralValuesCommand(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - click's
            return super().parse_args(ctx, spread(args, options))

    return SeveralValuesCommand
