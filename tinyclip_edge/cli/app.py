"""The command line: one module per command, with heavy imports inside the command's body."""

from __future__ import annotations

import errno
import io
import sys
import time
import warnings
from functools import cache
from typing import Annotated, Any

import typer
from typer.models import CommandInfo

from tinyclip_edge.cli.commands import COMMANDS, wrapped
from tinyclip_edge.cli.termination import orderly_end
from tinyclip_edge.cli.verbosity import (
    VERBOSITY,
    QuietOption,
    VerboseOption,
    set_verbosity,
    write_origin,
)
from tinyclip_edge.errors import (
    InterruptedRun,
    TinyClipError,
    TinyClipWarning,
    missing_extra,
    one_line,
)
from tinyclip_edge.launcher import first_process


class _App(typer.Typer):
    """The commands; when called, it imports only the one on the command line."""

    _invoked: str | None = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as of Typer
        self._invoked = next((word for word in sys.argv[1:] if word[:1] != "-"), None)
        try:
            return super().__call__(*arguments, **options)
        finally:
            self._invoked = None

    @property
    def registered_commands(self) -> list[CommandInfo]:
        """All commands, or the one that is called."""
        names = [self._invoked] if self._invoked in COMMANDS else list(COMMANDS)
        return [_command(name) for name in names if name is not None]

    @registered_commands.setter
    def registered_commands(self, _: list[CommandInfo]) -> None:
        """Ignore the empty list of Typer's constructor."""


@cache
def _command(name: str) -> CommandInfo:
    command, app = COMMANDS[name], typer.Typer()
    function = wrapped(command.function, command.interrupted)
    kind = None
    if command.several:
        from tinyclip_edge.cli.several_values import taking_several

        kind = taking_several(command.several)
    app.command(name, cls=kind, epilog=command.epilog)(function)
    return app.registered_commands[0]


app = _App(
    name="tinyclip-edge",
    help="Distil a CLIP, export it as verified int8 ONNX, run it without torch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would double the time of --help
)

# Errors of a disk or an overlong name: one line, wherever they are raised.
SURROUNDINGS = (
    errno.ENAMETOOLONG,
    errno.EACCES,
    errno.EPERM,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
)

_FORMAT = warnings.formatwarning

# Seconds in which the first process reports an error common to all, before launchers end them.
GRACE = 20.0

# The extra that provides a package imported inside a command's body.
EXTRA_OF = {
    **dict.fromkeys(["torch", "torchvision", "open_clip", "accelerate", "safetensors"], "distill"),
    **dict.fromkeys(["webdataset", "braceexpand", "huggingface_hub", "matplotlib"], "distill"),
    **dict.fromkeys(["onnx", "onnxscript"], "export"),
    "transformers": "huggingface",
    "gradio": "demo",
    "usearch": "search",
    **dict.fromkeys(["pyarrow", "distributed"], "embed"),
    **dict.fromkeys(["fastapi", "starlette", "uvicorn", "prometheus_client"], "serve"),
}


def _show_version(value: bool) -> None:
    if value:
        from tinyclip_edge import __version__

        typer.echo(f"tinyclip-edge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    set_verbosity(verbose=verbose, quiet=quiet)


def main() -> None:
    """Run the command line; a TinyClipError becomes one line on stderr and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An arrow in a table must not end a run on a terminal that supports only ASCII.
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = _warning_line
    set_verbosity(verbose=False, quiet=False)
    try:
        with orderly_end():
            app()
    except SystemExit as end:
        if end.code == InterruptedRun.exit_code:  # of Typer, before the command's function began
            raise KeyboardInterrupt from None
        raise
    except TinyClipError as error:
        _fail(error)
    except OSError as error:
        if error.errno not in SURROUNDINGS:
            raise
        location = f"{error.filename}: " if error.filename else ""
        _fail(TinyClipError(f"{location}{error.strerror}"), origin=error)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRA_OF:
            raise
        _fail(missing_extra("this command needs", package, EXTRA_OF[package]), origin=error)


def _warning_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Return a warning of this project as one line, without the position in the code."""
    if issubclass(category, TinyClipWarning):
        return "" if VERBOSITY.quiet else f"warning: {one_line(str(message))}\n"
    return _FORMAT(message, category, filename, lineno, line)


def _fail(error: TinyClipError, origin: Exception | None = None) -> None:
    if not first_process():
        time.sleep(GRACE)
    if isinstance(error, InterruptedRun):  # not an error: a stop on request
        sys.stderr.write(f"{error}\n" if first_process() else "")
    else:
        write_origin(origin or error)
        sys.stderr.write(f"error: {error}\n")
    sys.exit(error.exit_code)
