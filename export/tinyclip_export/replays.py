"""Replay the golden vectors of a bundle's files in forms other than its ONNX towers.

Each form runs in a separate process, because an engine or a decoder may crash. The module is also
that process's main program; it imports neither torch nor onnx, unless the engine does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tinyclip_edge.child import ChildError, run_child
from tinyclip_edge.engines import ENGINES
from tinyclip_edge.errors import BundleError, TinyClipError
from tinyclip_export.bundle.golden_folder import (
    GRAPHS,
    inputs_of,
    replay_golden_folder,
    replay_name,
)
from tinyclip_export.form_replay import FormReplay

if TYPE_CHECKING:
    from tinyclip_edge.runtime.bundle import Manifest

TIMEOUT = 300  # seconds
EXTENSION = {"onnxruntime_extensions": "onnxruntime-extensions"}


@dataclass(frozen=True, slots=True)
class _Form:
    title: str  # of its files
    kind: str  # name of an engine, or one of GRAPHS
    precisions: Sequence[str]
    packages: Mapping[str, str]  # module to import -> package


def replay_forms(
    folder: Path,
    manifest: Manifest,
    *,
    precision: str | None = None,
    threads: int | None = None,
) -> tuple[tuple[FormReplay, ...], tuple[str, ...]]:
    """Return the replays of forms whose packages are installed, and why others were left out."""
    replays, left_out = [], []
    for form in _forms(manifest):
        missing = [name for module, name in form.packages.items() if find_spec(module) is None]
        if missing:
            left_out.append(f"{form.title} (needs {' and '.join(missing)})")
            continue
        replays += [
            _in_child(form, folder, each, threads)
            for each in form.precisions
            if precision in (None, each)
        ]
    if manifest.extras.get("native"):
        left_out.append(f"native files of {manifest.target.get('name')} (need its device)")
    return tuple(replays), tuple(left_out)


def _forms(manifest: Manifest) -> Iterator[_Form]:
    extras = manifest.extras
    try:
        if entry := extras.get("engine"):
            name, precisions = str(entry["name"]), list(entry["files"])
            engine = ENGINES.get(name)
            packages = {name: "a newer tinyclip-edge"} if engine is None else engine.runs_with
            yield _Form(f"{name} files", name, precisions, packages)
        for graph in GRAPHS:
            if entry := extras.get(graph):
                title = f"graphs of {inputs_of(graph)}"
                yield _Form(title, graph, list(entry["files"]), EXTENSION)
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"bundle {manifest.name}: its extras do not list their files; export the bundle again"
        ) from error


def _name(kind: str, precision: str) -> str:
    return replay_name(kind, precision) if kind in GRAPHS else f"{kind} {precision}"


def _in_child(form: _Form, folder: Path, precision: str, threads: int | None) -> FormReplay:
    try:
        result = run_child(
            __name__, form.kind, str(folder), precision, str(threads or ""), timeout=TIMEOUT
        )
    except ChildError as error:
        result = {"name": _name(form.kind, precision), "error": str(error)}
    return FormReplay(**result)


def replay_form(kind: str, folder: Path, precision: str, threads: int | None) -> FormReplay:
    """Replay an engine's files, or one of GRAPHS, on this machine; errors are in the result."""
    try:
        if kind in GRAPHS:
            return replay_golden_folder(folder, kind, precision, threads=threads)
        from tinyclip_export.engines.replay import replay_engine

        replay = replay_engine(folder, precision, threads=threads)
    except TinyClipError as error:
        return FormReplay(_name(kind, precision), error=str(error))
    return FormReplay(
        replay.precision,
        {"image": replay.image_cosine, "text": replay.text_cosine},
        dict.fromkeys(("image", "text"), replay.least),
        {"image": replay.image_ms, "text": replay.text_ms},
        replay.same_ids,
    )


def main(arguments: list[str]) -> int:
    """Print the replay as JSON on the last line, because engines print too."""
    kind, folder, precision, threads = arguments
    replay = replay_form(kind, Path(folder), precision, int(threads) if threads else None)
    sys.stdout.write("\n" + json.dumps(asdict(replay)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
