"""Write the files that are generated from code: ``python docs/generate.py [--check]``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from tinyclip_edge import errors, precisions
from tinyclip_edge.cli.app import app
from tinyclip_edge.config.reference import ConfigKey, config_keys
from tinyclip_edge.metrics import METRICS
from tinyclip_edge.runtime.manifest_keys import FORMAT_VERSION, KEYS, page_module

ROOT = Path(__file__).parents[1]
GENERATED = "<!-- Written by docs/generate.py; change the code it is read from. -->\n"


def configuration() -> str:
    """Return the page of all configuration keys."""
    run = "`tinyclip-edge distill my-run.yaml`; any key can be overridden as `key=value`."
    target = "`tinyclip-edge export --target my-target.yaml`."
    return "\n".join(
        [
            "# Configuration\n",
            "`tinyclip-edge config [KEY]` prints the same.\n",
            f"## A run\n\n{run}\n",
            *_key_table(config_keys("run")),
            f"\n## An export target\n\n{target}\n",
            *_key_table(config_keys("export")),
            "",
        ]
    )


def _key_table(keys: list[ConfigKey]) -> Iterator[str]:
    yield "| key | type | default | what it does |"
    yield "| --- | --- | --- | --- |"
    for entry in keys:
        cells = (f"`{entry.key}`", entry.type, f"`{entry.default}`", entry.description)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def commands() -> str:
    """Return the page of all commands with their arguments and options."""
    group: Any = typer.main.get_command(app)
    parts = ["# Commands\n"]
    for name, command in group.commands.items():
        parts.append(f"## tinyclip-edge {name}\n\n{(command.help or '').strip()}\n")
        parts += ["| argument or option | what it does |", "| --- | --- |"]
        for parameter in command.params:
            cells = (f"`{_label(parameter)}`", _help(parameter))
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("")
    return "\n".join(parts)


def _label(parameter: Any) -> str:  # noqa: ANN401 - Typer has a click of its own
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return ", ".join([*parameter.opts, *parameter.secondary_opts])


def _help(parameter: Any) -> str:  # noqa: ANN401
    shown = parameter.show_default if isinstance(parameter.show_default, str) else None
    value = parameter.default
    if shown is None and isinstance(value, int | float | str) and not isinstance(value, bool):
        shown = str(value)
    default = f" Default: {shown}." if shown else ""
    return f"{parameter.help or ''}{default}"


def bundle() -> str:
    """Return the page of a bundle's manifest and its precisions."""
    rows = [
        f"| `{key.key}` | {key.kind} | {'' if key.required else 'optional. '}{key.description} |"
        for key in KEYS
    ]
    return "\n".join(
        [
            "# Bundle\n",
            f"`manifest.json`, format version {FORMAT_VERSION}. `*` stands for each name.\n",
            "| key | value | what it is |",
            "| --- | --- | --- |",
            *rows,
            "\n## Precisions\n",
            precisions.markdown_table(),
            "",
        ]
    )


def figures() -> str:
    """Return the page of accuracies and exit codes."""
    metrics = [f"| `{m.key}` | {m.label} | {m.unit} |" for m in METRICS.values()]
    kinds = [
        f"| `{name}` | {kind.exit_code} | {(kind.__doc__ or '').strip()} |"
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.TinyClipError)
    ]
    return "\n".join(
        [
            "# Accuracies and errors\n",
            "| key in events and JSON | what it is | shown in |",
            "| --- | --- | --- |",
            *metrics,
            "\n## Errors and exit codes\n",
            "0: done; 1: a defect of tinyclip-edge; 2: the user's input; 3: a verification gate "
            "refused; 130: interrupted, with a checkpoint written.\n",
            "| error | exit code | when |",
            "| --- | --- | --- |",
            *kinds,
            "",
        ]
    )


PAGES = {
    "configuration.md": configuration,
    "commands.md": commands,
    "bundle.md": bundle,
    "figures.md": figures,
}


def generated_files() -> Iterator[tuple[Path, str]]:
    """Yield the path and the text of each file."""
    for name, page in PAGES.items():
        yield ROOT / "docs/reference" / name, GENERATED + page()
    yield ROOT / "demo/web/js/manifest_keys.js", page_module()


def main() -> None:
    """Write the files, or with --check name those that are not up to date and exit with 1."""
    stale = []
    for path, text in generated_files():
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"not up to date: {', '.join(stale)}; run: python docs/generate.py")


if __name__ == "__main__":
    main()
