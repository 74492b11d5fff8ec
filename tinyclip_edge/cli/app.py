"""The command line: one module per command, with heavy imports inside the command's body."""

from __future__ import annotations

import errno
import io
import sys
import time
import warnings
from typing import Annotated

import typer

from tinyclip_edge.cli import (
    bench,
    cache,
    check,
    classify,
    config,
    convert,
    demo,
    distill,
    doctor,
    duplicates,
    evaluate,
    export,
    index,
    inherit,
    models,
    quickstart,
    report,
    runs,
    search,
    serve,
)
from tinyclip_edge.cli.termination import orderly_end
from tinyclip_edge.errors import MissingExtraError, TinyClipError, TinyClipWarning, one_line
from tinyclip_edge.launcher import first_process

app = typer.Typer(
    name="tinyclip-edge",
    help="Distil a CLIP, export it as verified int8 ONNX, run it without torch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would double the time of --help
)

app.command("quickstart")(quickstart.quickstart)
app.command("distill")(distill.distill)
app.command("doctor")(doctor.doctor)
app.command("cache")(cache.cache)
app.command("inherit")(inherit.inherit)
app.command("convert")(convert.convert)
app.command("export")(export.export)
app.command("check")(check.check)
app.command("classify")(classify.classify)
app.command("index")(index.index)
app.command("search")(search.search)
app.command("serve")(serve.serve)
app.command("duplicates")(duplicates.duplicates)
app.command("watch")(index.watch)
app.command("eval")(evaluate.evaluate)
app.command("bench")(bench.bench)
app.command("report")(report.report)
app.command("runs")(runs.runs)
app.command("clean")(runs.clean)
app.command("demo")(demo.demo)
app.command("models")(models.models)
app.command("config")(config.config)

# Raised if the disk refuses or a name is too long, wherever it happens.
SURROUNDINGS = (
    errno.ENAMETOOLONG,
    errno.EACCES,
    errno.EPERM,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
)

_FORMAT = warnings.formatwarning

# Seconds: the first process reports an error common to all, then launchers end the others.
GRACE = 20.0

# The extra that provides a package imported inside a command's body.
EXTRA_OF = {
    **dict.fromkeys(["torch", "torchvision", "open_clip", "accelerate", "safetensors"], "distill"),
    **dict.fromkeys(["webdataset", "braceexpand", "huggingface_hub", "matplotlib"], "distill"),
    **dict.fromkeys(["onnx", "onnxscript"], "export"),
    "transformers": "huggingface",
    "gradio": "demo",
    "usearch": "search",
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
) -> None:
    pass


def main() -> None:
    """Run the command line; a TinyClipError becomes one line on stderr and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An arrow in a table must not end a run on a terminal that supports only ASCII.
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = _warning_line
    try:
        with orderly_end():
            app()
    except TinyClipError as error:
        _fail(error)
    except OSError as error:
        if error.errno not in SURROUNDINGS:
            raise
        location = f"{error.filename}: " if error.filename else ""
        _fail(TinyClipError(f"{location}{error.strerror}"))
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRA_OF:
            raise
        extra = EXTRA_OF[package]
        _fail(
            MissingExtraError(
                f"this command needs the package '{package}', which is not installed; "
                f"run: pip install 'tinyclip-edge[{extra}]'"
            )
        )


def _warning_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Return a warning of this project as one line, without the position in the code."""
    if issubclass(category, TinyClipWarning):
        return f"warning: {one_line(str(message))}\n"
    return _FORMAT(message, category, filename, lineno, line)


def _fail(error: TinyClipError) -> None:
    if not first_process():
        time.sleep(GRACE)
    sys.stderr.write(f"error: {error}\n")
    sys.exit(error.exit_code)
