"""Replay a bundle's ``golden/``: golden vectors of graphs of strings and encoded pictures.

Imports neither torch nor onnx.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyclip_edge.errors import BundleError, VerificationError, first_line
from tinyclip_edge.json_text import read_json_table
from tinyclip_edge.runtime.bundle import Manifest, bundle_file
from tinyclip_edge.runtime.golden import timed_rows
from tinyclip_edge.runtime.protocol import Features
from tinyclip_export.bundle.extension_operators import Session, open_with_extension
from tinyclip_export.form_replay import FormReplay
from tinyclip_export.layout import IMAGE_IO, TEXT_IO

FOLDER = "golden"
VECTORS = f"{FOLDER}/vectors.json"
# Entry of the extras -> tower, which is also the name of the graph's input.
GRAPHS = {"strings": "text", "encoded_pictures": "image"}


def replay_golden_folder(
    folder: Path, graph: str, precision: str, *, threads: int | None = None
) -> FormReplay:
    """Run one of GRAPHS, in one precision, on the texts or pictures of ``golden/``.

    Raises BundleError for a folder that is not as ``export`` writes it, VerificationError for a
    graph that does not load or run.
    """
    manifest = Manifest.read(folder)
    manifest.verify_files(folder, [VECTORS])
    vectors = read_json_table(bundle_file(folder, VECTORS), BundleError)
    try:
        name, tower = manifest.extras[graph]["files"][precision], GRAPHS[graph]
        manifest.verify_files(folder, [name])
        least = float(vectors["least_cosine"][precision][tower])
        recorded = np.array(vectors["embeddings"][precision][tower], np.float32)
        inputs = _texts(vectors) if tower == "text" else _pictures(folder, manifest, vectors)
        ids = [each["input_ids"] for each in vectors["texts"]] if tower == "text" else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            f"bundle {folder}: {VECTORS} has no golden vectors of {precision} {inputs_of(graph)}; "
            "export the bundle again"
        ) from error
    if not inputs or recorded.shape != (len(inputs), manifest.embedding_dim):
        raise BundleError(
            f"bundle {folder}: {VECTORS} does not have {len(inputs):,} embeddings of "
            f"{manifest.embedding_dim} dimensions for {precision} {inputs_of(graph)}"
        )
    precise = manifest.saturates(tower, precision)
    run = _ExtensionSession(bundle_file(folder, name), tower, threads=threads, precise_int8=precise)
    output = (TEXT_IO if tower == "text" else IMAGE_IO).output_name
    rows, ms = timed_rows(lambda each: run(output, each), inputs)
    same_ids = None
    if ids is not None:
        same_ids = [run(TEXT_IO.input_name, each)[0].tolist() for each in inputs] == ids
    return FormReplay(
        replay_name(graph, precision),
        {tower: float((rows * recorded).sum(axis=1).min())},
        {tower: least},
        {tower: ms},
        same_ids,
    )


def inputs_of(graph: str) -> str:
    """Return what a graph takes, in words."""
    return graph.replace("_", " ")


def replay_name(graph: str, precision: str) -> str:
    """Return the name of a graph's replay, such as "int8 from strings"."""
    return f"{precision} from {inputs_of(graph)}"


class _ExtensionSession:
    """One file in onnxruntime, with the operators of onnxruntime-extensions."""

    def __init__(self, path: Path, input_name: str, **options: Any) -> None:  # noqa: ANN401
        self._name, self._input = path.name, input_name
        try:
            self._session: Session = open_with_extension(path.read_bytes(), **options)
        # onnxruntime's exceptions share no base class.
        except Exception as error:
            raise VerificationError(f"{path.name} does not load: {first_line(error)}") from error

    def __call__(self, output: str, value: Any) -> Features:  # noqa: ANN401 - strings or bytes
        try:
            (result,) = self._session.run([output], {self._input: value})
        except Exception as error:
            raise VerificationError(f"{self._name} fails: {first_line(error)}") from error
        features: Features = result
        return features


def _texts(vectors: Mapping[str, Any]) -> Sequence[Any]:
    return [np.array([str(each["text"])], object) for each in vectors["texts"]]


def _pictures(folder: Path, manifest: Manifest, vectors: Mapping[str, Any]) -> Sequence[Any]:
    names = [f"{FOLDER}/{name}" for name in vectors["pictures"]]
    manifest.verify_files(folder, names)
    return [np.fromfile(bundle_file(folder, name), np.uint8) for name in names]
