"""How much a command writes to stderr: ``--quiet`` and ``--verbose``."""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import dataclass
from typing import Annotated

import typer

from tinyclip_edge.errors import ConfigError, one_line, without_secrets
from tinyclip_edge.launcher import first_process

LOGGERS = ("tinyclip_edge", "tinyclip_export", "tinyclip_demo")

VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Say what is read and chosen, and when; show tracebacks of errors."
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Write errors and the result, nothing else.")
]


@dataclass
class Verbosity:
    """The verbosity of the running command."""

    quiet: bool = False
    verbose: bool = False


VERBOSITY = Verbosity()


class DetailHandler(logging.Handler):
    """Writes what the library logs to stderr, with the seconds since the command started."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._started = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        seconds = time.monotonic() - self._started
        sys.stderr.write(f"{seconds:6.2f} s  {one_line(record.getMessage())}\n")


def set_verbosity(*, verbose: bool, quiet: bool) -> None:
    """Choose what is written from now on. Raises ConfigError for both options."""
    if verbose and quiet:
        raise ConfigError("--verbose and --quiet contradict each other; choose one")
    VERBOSITY.verbose, VERBOSITY.quiet = verbose, quiet
    if quiet:  # read by huggingface_hub when it is imported
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    handler = DetailHandler() if verbose and first_process() else None
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for old in [each for each in logger.handlers if isinstance(each, DetailHandler)]:
            logger.removeHandler(old)
        logger.setLevel(logging.NOTSET if handler is None else logging.INFO)
        if handler is not None:
            logger.addHandler(handler)


def write_origin(error: Exception) -> None:
    """With ``--verbose``, write the traceback of an error and of its causes to stderr."""
    if not VERBOSITY.verbose:
        return
    import traceback

    error.__suppress_context__ = False  # the errors that the message replaces, too
    for line in traceback.format_exception(error):
        sys.stderr.write(without_secrets(line))
