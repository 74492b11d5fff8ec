"""All commands: the function behind each name, its examples, and what Ctrl-C leaves.

Their modules are imported only when needed, so that one command does not wait for the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

from tinyclip_edge.cli.verbosity import QuietOption, VerboseOption, set_verbosity
from tinyclip_edge.errors import InterruptedRun

_log = logging.getLogger(__name__)

AGAIN = "the same command starts again"
NOTHING = "nothing was changed"
UNSAVED = f"nothing was written; {AGAIN}"


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the command line."""

    name: str
    place: str  # module in this folder, and the function in it
    interrupted: str = NOTHING  # what Ctrl-C leaves, and how to go on
    examples: tuple[str, ...] = ()
    several: tuple[str, ...] = ()  # options that take several values: --data A B C

    @property
    def function(self) -> Callable[..., None]:
        """The command's function; this imports its module."""
        module, name = self.place.split(".")
        function: Callable[..., None] = getattr(import_module(f"tinyclip_edge.cli.{module}"), name)
        return function

    @property
    def epilog(self) -> str | None:
        """The end of its help."""
        if not self.examples:
            return None
        lines = [f"  tinyclip-edge {example}" for example in self.examples]
        return "\n".join(["\b", "Examples:", *lines])  # \b: lines are not joined


_ALL = (
    Command(
        "quickstart",
        "quickstart.quickstart",
        "finished work stays in runs/ and bundles/; quickstart starts anew beside it",
    ),
    Command("demo", "demo.demo", "the page is closed; the same command serves it again"),
    Command(
        "classify",
        "classify.classify",
        examples=(
            "classify photo.jpg --labels bicycle,anchor,cat",
            'classify photos --labels labels.txt --template "photo of {}"',
        ),
    ),
    Command(
        "index",
        "index.index",
        "finished embeddings are saved; the same command continues",
        ("index ~/Photos", "index photos scans --into holiday.npz --bundle bundles/mine"),
    ),
    Command(
        "search",
        "search.search",
        examples=(
            'search "a red bicycle"',
            'search "a bicycle" --not red --top 20 --open',
            "search --image photo.jpg --in holiday.npz --copy-to found",
        ),
    ),
    Command("duplicates", "duplicates.duplicates"),
    Command("watch", "index.watch", "the index is as last written; the same command continues"),
    Command(
        "embed",
        "embed.embed",
        "complete files stay; the same command continues",
        (
            "embed 'data/{000..099}.tar' --out embeddings --workers 4",
            "embed data/*.tar --out vectors --cluster tcp://10.0.0.1:8786",
        ),
    ),
    Command(
        "serve",
        "serve.serve",
        "requests under way were answered; the same command serves again",
        (
            "serve bundles/mine",
            "serve bundles/mine --index pictures.npz --key-file keys.txt",
        ),
    ),
    Command(
        "distill",
        "distill.distill",
        f"no step was done; {AGAIN}",
        (
            "distill my-run.yaml --out runs/mine",
            "distill my-run.yaml --dry-run",
            "distill starter optim.steps=800 data.train=pairs.csv",
            "distill --resume runs/mine",
        ),
    ),
    Command(
        "tailor",
        "tailor.tailor",
        "finished work stays; the same command with --resume continues",
        (
            "tailor --images photos --labels labels.txt",
            "tailor --images photos --labels labels.txt --max-mb 2",
            "tailor --images photos --labels labels.txt --resume",
        ),
    ),
    Command("doctor", "doctor.doctor", examples=("doctor my-run.yaml",)),
    Command(
        "export",
        "export.export",
        f"no bundle was written; {AGAIN}",
        (
            "export --int8",
            "export runs/mine --int8 --data val.csv --max-drop 1",
            "export ViT-B-32/laion2b_s34b_b79k --int8 --out bundles/b32",
            "export runs/mine --target x86-vnni --labels labels.txt",
        ),
    ),
    Command("check", "check.check", examples=("check bundles/mine",)),
    Command(
        "eval",
        "evaluate.evaluate",
        examples=(
            "eval bundles/mine --data val.csv",
            "eval runs/mine --task zero-shot --data classes/",
            "eval ViT-B-32/laion2b_s34b_b79k --limit 500 --json",
        ),
    ),
    Command(
        "compare",
        "compare.compare",
        examples=(
            "compare runs/a runs/b bundles/c --data starter:val val.csv",
            "compare runs/a runs/b --data classes/ --plot best.html",
        ),
        several=("--data",),
    ),
    Command(
        "bench",
        "bench.bench",
        examples=(
            "bench bundles/mine runs/mine starter-teacher",
            "bench bundles/mine --record my-device.json",
        ),
    ),
    Command(
        "report",
        "report.report",
        f"no page was written; {AGAIN}",
        ("report runs/mine", "report runs/a runs/b --data starter:val val.csv"),
        several=("--data",),
    ),
    Command("runs", "runs.runs"),
    Command("clean", "runs.clean", "deleted files are gone; the same command continues"),
    Command("inherit", "inherit.inherit", UNSAVED),
    Command(
        "select",
        "select.select",
        "results of finished shards are saved; the same command continues",
        (
            "select *.tar --target-texts a.txt --count 90 --out a.selection",
            "select *.tar --target-images a --count 90 --out a.selection",
        ),
    ),
    Command("cache", "cache.cache", "finished parts are saved; the same command continues"),
    Command(
        "convert",
        "convert.convert",
        f"no folder was written, downloaded files stay in the cache; {AGAIN}",
        (
            "convert checkpoint.pt --out models/mine",
            "convert hf-hub:owner/name --out mine --format huggingface",
        ),
    ),
    Command("models", "models.models"),
    Command(
        "config", "config.config", examples=("config optim.lr", "config loss", "config --export")
    ),
)

COMMANDS = {command.name: command for command in _ALL}


def wrapped(function: Callable[..., None], interrupted: str = NOTHING) -> Callable[..., None]:
    """Return a command's function for Typer, with ``--verbose`` and ``--quiet`` after its options.

    KeyboardInterrupt becomes InterruptedRun.
    """
    own = signature(function, eval_str=True)
    added = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=option)
        for name, option in (("verbose", VerboseOption), ("quiet", QuietOption))
    ]

    @wraps(function)
    def run(*arguments: Any, verbose: bool, quiet: bool, **values: Any) -> None:  # noqa: ANN401
        if verbose or quiet:  # otherwise those before the command's name count
            set_verbosity(verbose=verbose, quiet=quiet)
        try:
            function(*arguments, **values)
            _log.info("done")
        except KeyboardInterrupt:
            raise InterruptedRun(f"interrupted; {interrupted}") from None

    # Typer reads it instead of the parameters of ``run``.
    run.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*own.parameters.values(), *added]
    )
    return run
