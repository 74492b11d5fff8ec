"""Errors caused by users: one line of text each, and the exit code of the command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from tinyclip_edge.limits import MESSAGE_CHARS, WORD_CHARS

LONG_WORD = re.compile(rf"\S{{{WORD_CHARS + 1},}}")
LOGIN = re.compile(r"(?<=://)[^/?#\s@]*(?:@[^/?#\s@]*)*@")
QUERY = re.compile(r"(\b[a-z]+://[^\s?'\"]*\?)[^\s'\",]+")


def one_line(text: str) -> str:
    """Return a message as one safe line for any terminal or log.

    Line breaks, control characters and halves of surrogate pairs are escaped, long words and long
    texts are shortened in the middle, passwords and signed queries of web addresses are removed.
    """
    text = without_secrets(text)
    text = LONG_WORD.sub(lambda word: _shortened(word[0], WORD_CHARS), text.strip())
    text = _shortened(text, MESSAGE_CHARS)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type if there is no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def first_names(names: Sequence[str], most: int) -> str:
    """Return the first ``most`` names for a message, with an ellipsis if there are more."""
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")


def without_secrets(text: str) -> str:
    """Return a text without the passwords and signed queries of its web addresses."""
    return QUERY.sub(r"\1…", LOGIN.sub("…@", text))


def shown(value: object) -> str:
    """Return the shortened representation of a value for a message."""
    try:
        return one_line(repr(value))
    except (ValueError, RecursionError):  # a number of thousands of digits
        return f"a large {type(value).__name__}"


def _shortened(text: str, limit: int) -> str:
    omitted = len(text) - limit
    if omitted <= 0:
        return text
    return f"{text[: limit // 2]}…({omitted:,} more)…{text[-(limit // 2) :]}"


class TinyClipWarning(UserWarning):
    """A warning to the user; the command continues."""


class TinyClipError(Exception):
    """Base of every error that a user can cause; it says what is wrong, where, and what to do."""

    exit_code = 2

    def __str__(self) -> str:
        return one_line(super().__str__())


class ConfigError(TinyClipError):
    """A run or export configuration has an unknown key, a wrong type or contradictory values."""


class DataError(TinyClipError):
    """Images, captions, shards or labels are missing, empty or broken."""


class ModelError(TinyClipError):
    """A model, checkpoint or tokenizer is missing, broken or of another architecture."""


class InheritanceError(TinyClipError):
    """The student cannot take its weights from this teacher."""


class BundleError(TinyClipError):
    """An edge bundle is missing, changed, of another version or unsuitable for the request."""


class DeviceError(TinyClipError):
    """A device lacks its package or hardware here, or its results differ from the bundle's."""


class MissingExtraError(TinyClipError):
    """An optional dependency is not installed; the message names the extra that provides it."""


def missing_extra(subject: str, package: str, extra: str) -> MissingExtraError:
    """Return the error for a missing package; ``subject`` has a verb, as in "a cluster needs"."""
    return MissingExtraError(
        f"{subject} the package '{package}', which is not installed; run: pip install "
        f"'tinyclip-edge[{extra}]'"
    )


class VerificationError(TinyClipError):
    """An exported model failed a gate and was not written, or a bundle failed its check."""

    exit_code = 3


class InterruptedRun(TinyClipError):  # noqa: N818 - a stop on request
    """The run was stopped by a signal after its checkpoint was written."""

    exit_code = 130


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, else the list of known words."""
    names = sorted(choices)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""
