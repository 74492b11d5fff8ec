"""Errors a user can meet: one line of text each, and the exit code the command line ends with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TinyClipError(Exception):
    """Base of every error that the user can cause; it says what, where and what to do."""

    exit_code = 2


class ConfigError(TinyClipError):
    """A run or export configuration has an unknown key, a wrong type or values that contradict."""


class DataError(TinyClipError):
    """Images, captions, shards or labels are missing, empty or broken."""


class ModelError(TinyClipError):
    """A model, checkpoint or tokenizer is missing, broken or of another architecture."""


class InheritanceError(TinyClipError):
    """The student cannot take its weights from this teacher."""


class BundleError(TinyClipError):
    """An edge bundle is missing, changed, of another version or unfit for the request."""


class MissingExtraError(TinyClipError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class VerificationError(TinyClipError):
    """An exported model failed a gate, so it was not written where the user asked."""

    exit_code = 3


class InterruptedRun(TinyClipError):  # noqa: N818 - a stop that was asked for
    """The run was stopped by a signal after its checkpoint was written."""

    exit_code = 130


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, else the list of known words."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""
