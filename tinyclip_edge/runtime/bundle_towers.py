"""The working parts of a bundle: towers, tokenizer and preprocessing, opened on first use."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyclip_edge.errors import BundleError
from tinyclip_edge.json_text import read_json_table
from tinyclip_edge.runtime.bundle import TOWERS, Manifest, bundle_file
from tinyclip_edge.runtime.bundle_tokenizer import open_tokenizer
from tinyclip_edge.runtime.decode_modes import EXACT
from tinyclip_edge.runtime.manifest_keys import CONFIG_FILES
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.runtime.session import ON_CPU, Tower
from tinyclip_edge.runtime.tokenizer import ClipTokenizer

if TYPE_CHECKING:
    # Imported on demand: an application that only encodes a text starts faster without them.
    from tinyclip_edge.runtime.devices import Device
    from tinyclip_edge.runtime.placement import Placement
    from tinyclip_edge.runtime.plain_tokenizer import PlainTokenizer
    from tinyclip_edge.runtime.preprocess import Preprocess

_NAMES = {"image": ("pixel_values", "image_embeds"), "text": ("input_ids", "text_embeds")}
_PREPROCESSOR, _TOKENIZER = CONFIG_FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOptions:
    """How a bundle is opened; ``EdgeCLIP.load`` describes each option."""

    precision: str
    threads: int | None = None
    verify: bool = True
    low_memory: bool = False
    as_stored: bool = False
    decode: str = EXACT
    device: Device = ON_CPU

    def as_arguments(self) -> dict[str, Any]:
        """Return the arguments of ``EdgeCLIP.load`` that open the bundle this way again."""
        return {
            "precision": self.precision,
            "threads": self.threads,
            "verify": self.verify,
            "low_memory": self.low_memory,
            "as_stored": self.as_stored,
            "decode": self.decode,
            "device": self.device.name,
            "device_options": self.device.options,
        }


class BundleTowers:
    """Both towers with their tokenizer and preprocessing. Threads may share it."""

    def __init__(self, folder: Path, manifest: Manifest, options: OpenOptions) -> None:
        """Raise BundleError for a missing file; towers load, and are hashed, on first use."""
        self._folder = folder
        self._manifest = manifest
        self._options = options
        self._lock = threading.RLock()
        self._towers: dict[str, Tower] = {}
        self._preprocess: Preprocess | None = None
        self._tokenizer: ClipTokenizer | PlainTokenizer | None = None
        for name in self.files():
            if not bundle_file(folder, name).is_file():
                raise BundleError(f"bundle {folder}: {name} is missing; copy it again")

    def decoding(self, mode: str) -> BundleTowers:
        """Return the same towers with another decode mode for pictures."""
        parts = copy(self)
        parts._options = replace(self._options, decode=mode)
        parts._preprocess = None
        return parts

    def files(self) -> list[str]:
        """Return the relative paths this precision needs: two towers and two settings files."""
        precision = self._options.precision
        towers = [self._manifest.tower_path(tower, precision) for tower in TOWERS]
        return [*towers, *CONFIG_FILES]

    def image_side(self) -> tuple[Preprocess, Tower]:
        """Return the preprocessing and the image tower."""
        with self._lock:
            if self._preprocess is None:
                from tinyclip_edge.runtime.preprocess import Preprocess

                config = read_json_table(self._verified(_PREPROCESSOR), BundleError)
                options = self._options
                self._preprocess = Preprocess.from_config(
                    config, as_stored=options.as_stored, decode=options.decode
                )
            return self._preprocess, self._tower("image")

    def text_side(self) -> tuple[ClipTokenizer | PlainTokenizer, Tower]:
        """Return the tokenizer and the text tower."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = open_tokenizer(self._verified(_TOKENIZER), self._manifest)
            return self._tokenizer, self._tower("text")

    def open(self) -> None:
        """Open everything now; raise DeviceError for a device that is not available."""
        self.image_side()
        self.text_side()

    @property
    def placement(self) -> Mapping[str, Placement]:
        """Where the nodes ran, for each tower that ran on a device other than the CPU."""
        towers = self._towers.items()
        return {name: tower.placement for name, tower in towers if tower.placement is not None}

    def batch(self, default: int) -> int:
        """Return the number of inputs in a tower's batch."""
        return self._manifest.static_batch or (1 if self._options.low_memory else default)

    def padded(self, ids: list[int]) -> list[int]:
        """Return token ids as the text tower receives them."""
        pad = self._manifest.pad_id
        return ids if pad is None else ids + [pad] * (self._manifest.context_length - len(ids))

    def stacked(self, rows: list[Features]) -> Features:
        """Join batches into ``[N, D]``; raise BundleError if the width is not the manifest's."""
        width = self._manifest.embedding_dim
        stacked = np.concatenate(rows) if rows else np.empty((0, width), np.float32)
        if stacked.shape[1] != width:
            raise BundleError(
                f"bundle {self._folder}: embeddings have {stacked.shape[1]} dimensions, "
                f"the manifest says {width}"
            )
        return stacked

    def _tower(self, tower: str) -> Tower:
        if tower not in self._towers:
            options = self._options
            path = self._verified(self._manifest.tower_path(tower, options.precision))
            self._towers[tower] = Tower(
                path,
                names=_NAMES[tower],
                threads=options.threads,
                precise_int8=self._manifest.saturates(tower, options.precision),
                batch=self._manifest.static_batch,
                low_memory=options.low_memory,
                device=options.device,
            )
        return self._towers[tower]

    def _verified(self, name: str) -> Path:
        if self._options.verify:
            self._manifest.verify_files(self._folder, only=[name])
        return bundle_file(self._folder, name)
