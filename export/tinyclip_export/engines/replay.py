"""Replay the golden vectors of engine files.

They get their inputs as in an application: pictures through the bundle's preprocessing, texts
through its tokenizer. Imports neither torch nor onnx, unless the engine does. The module is also
the main program of the process that replays.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import BundleError
from tinyclip_edge.runtime.bundle import Manifest, bundle_file
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.golden import Replay, compare
from tinyclip_edge.runtime.placement import Placement
from tinyclip_edge.runtime.preprocess import Preprocess
from tinyclip_edge.runtime.protocol import Features, ImageInput
from tinyclip_edge.runtime.session import full_batch
from tinyclip_export.engines.towers import engine_towers
from tinyclip_export.layout import TOWER_IO, InputForm
from tinyclip_export.verification.embeddings import Session, TowerFiles
from tinyclip_export.verification.reload import main


def replay_engine(folder: Path, precision: str, *, threads: int | None = None) -> Replay:
    """Replay the golden vectors with the engine's files of one precision on this machine.

    Raises BundleError for a manifest that does not describe the files, VerificationError for a file
    that does not load or run.
    """
    clip = EdgeCLIP.load(folder)
    files = engine_files(folder, clip.manifest, precision)
    recorded = clip.manifest.extras["engine"].get("golden")
    embeddings = recorded.get(precision) if isinstance(recorded, dict) else None
    golden = {**clip.manifest.golden, "embeddings": {files.precision: embeddings}}
    manifest = replace(clip.manifest, golden=golden)
    sessions = {tower: files.open(tower, threads=threads) for tower in TOWER_IO}
    return compare(_EngineClip(folder, manifest, files.precision, clip, sessions, files.form.batch))


def engine_files(folder: Path, manifest: Manifest, precision: str) -> TowerFiles:
    """Return the engine's files of one precision; raise BundleError if they are not described."""
    try:
        entry = manifest.extras["engine"]
        names = {tower: entry["files"][precision][tower] for tower in TOWER_IO}
        manifest.verify_files(folder, names.values())
        return engine_towers(
            entry["name"],
            precision,
            {tower: bundle_file(folder, name) for tower, name in names.items()},
            form=InputForm(entry["inputs"]["batch"], pad_id=int(entry["inputs"]["pad_id"])),
            context=manifest.context_length,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            f"bundle {folder}: extras.engine does not describe its {precision} files; export the "
            "bundle again"
        ) from error


@dataclass(slots=True)
class _EngineClip:
    """An engine's towers with a bundle's preprocessing and tokenizer."""

    folder: Path
    manifest: Manifest
    precision: str  # such as "litert int8"
    bundle: EdgeCLIP
    sessions: Mapping[str, Session]
    batch: int | None

    @property
    def placement(self) -> Mapping[str, Placement]:
        return {}

    @property
    def preprocess(self) -> Preprocess:
        return self.bundle.preprocess

    def token_ids(self, text: str) -> list[int]:
        return self.bundle.token_ids(text)

    def encode_image(self, images: Iterable[ImageInput]) -> Features:
        return self._encode("image", np.stack([self.preprocess(each) for each in images]))

    def encode_text(self, texts: Iterable[str]) -> Features:
        return self._encode("text", np.array([self.token_ids(each) for each in texts], np.int64))

    def _encode(self, tower: str, rows: npt.NDArray[Any]) -> Features:
        feed = {TOWER_IO[tower].input_name: full_batch(rows, self.batch)}
        features: Features = self.sessions[tower].run(None, feed)[0][: len(rows)]
        return features


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], replay_engine))
