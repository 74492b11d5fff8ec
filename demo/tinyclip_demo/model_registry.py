"""The models of the page: named at once, loaded in the background, one after another."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from tinyclip_edge.errors import ConfigError, ModelError, TinyClipError
from tinyclip_edge.runtime.protocol import Embedder, EmbedderSpec

WAITING, LOADING, READY, FAILED = "waiting", "loading", "ready", "failed"
MAX_MODELS = 12


class ModelSlot:
    """One model: what it is called before it is loaded, and how far loading is."""

    def __init__(self, source: str | Embedder, *, threads: int | None = None) -> None:
        """Read a bundle's manifest, nothing more; raise BundleError when it is broken.

        ``source`` is a MODEL, a bundle also as ``FOLDER@PRECISION``.
        """
        self.threads = threads
        self.state = WAITING
        self.error = ""
        self.seconds = 0.0
        self.spec: EmbedderSpec | None = None  # known when a bundle is named, else when loaded
        self._embedder: Embedder | None = None
        if not isinstance(source, str):
            self.model, self.state = "", READY
            self._take(source)
            return
        self.model, wanted = split_source(source)
        if _is_bundle(self.model):
            self._take(_open(self.model, wanted, threads))
        else:
            self.name, self.runtime, self.precision = _short(self.model), "torch", "fp32"

    @property
    def embedder(self) -> Embedder:
        """The loaded model; raise ModelError while there is none."""
        if self._embedder is None or self.state != READY:
            raise ModelError(self.error or f"{self.name} is still loading: try again in a moment")
        return self._embedder

    @property
    def settled(self) -> bool:
        """Whether loading has ended, well or badly."""
        return self.state in (READY, FAILED)

    def load(self) -> None:
        """Open the model and run it once; an error becomes the slot's, told in one line."""
        self.state, began = LOADING, time.perf_counter()
        try:
            opened = self._embedder or _open(self.model, None, self.threads)
            # What a model loads late is loaded now, so that the first figures mean something.
            opened.encode_image([Image.new("RGB", (64, 64), "grey")])
            opened.encode_text(["picture"])
        except TinyClipError as error:
            self._fail(str(error))
        # A library's own error must not leave the page waiting for ever.
        except Exception as error:
            self._fail(
                f"{self.model} does not run: {(str(error).splitlines() or [repr(error)])[0]}"
            )
        else:
            self.seconds = time.perf_counter() - began
            name = self.name
            self._take(opened)
            self.name, self.state = name, READY

    def reopen(self, threads: int) -> Embedder:
        """Return the model at a number of threads: a bundle anew, PyTorch's as it is."""
        if self.runtime != "onnxruntime" or not self.model:
            return self.embedder
        return _open(self.model, self.precision, threads)

    def _take(self, opened: Embedder) -> None:
        self._embedder, self.spec, self.name = opened, opened.spec, opened.name
        self.runtime, self.precision = self.spec.runtime, self.spec.precision

    def _fail(self, message: str) -> None:
        self.error, self.state = message, FAILED
        sys.stderr.write(f"demo: {message}\n")


class ModelRegistry:
    """All models of the page; the first is the reference."""

    def __init__(self, models: Sequence[str | Embedder], *, threads: int | None = None) -> None:
        if not models:
            raise ConfigError("the demo needs at least one model: give MODEL, --teacher, --student")
        self._threads = threads
        self._lock = threading.Lock()
        self._loader: threading.Thread | None = None
        self.slots = [ModelSlot(model, threads=threads) for model in models]
        self.names = distinct_names(self.slots)

    def __len__(self) -> int:
        return len(self.slots)

    def start(self) -> None:
        """Load what waits, in the background, bundles first because they take no time."""
        if all(slot.state != WAITING for slot in self.slots):
            return
        if self._loader is None or not self._loader.is_alive():
            self._loader = threading.Thread(target=self.load_all, name="load-models", daemon=True)
            self._loader.start()

    def load_all(self) -> None:
        """Load what waits; two callers do not load anything twice."""
        with self._lock:
            # Looked at anew after each one: a model may have been added meanwhile.
            while waiting := [slot for slot in self.slots if slot.state == WAITING]:
                min(waiting, key=lambda slot: slot.runtime != "onnxruntime").load()

    def add(self, source: str) -> str:
        """Add a MODEL and start loading it; return its name."""
        source = source.strip()
        if not source:
            raise ConfigError("no model: write a folder, an open_clip name or hf-hub:owner/name")
        if len(self.slots) >= MAX_MODELS:
            raise ConfigError(f"{MAX_MODELS} models are the most that the page compares")
        slot = ModelSlot(source, threads=self._threads)
        if any((s.model, s.precision) == (slot.model, slot.precision) for s in self.slots):
            raise ConfigError(f"{source} is on the page already")
        self.slots.append(slot)
        # Names that stand stay: an open page has chosen among them.
        self.names = (*self.names, _free_name(_labelled(slot), self.names))
        self.start()
        return self.names[-1]

    def numbers(self, names: Iterable[str] | None = None) -> tuple[int, ...]:
        """Positions of the chosen names, all for None; raise ConfigError when none is chosen."""
        wanted = set(self.names if names is None else names)
        found = tuple(i for i, name in enumerate(self.names) if name in wanted)
        if not found:
            raise ConfigError("no model is chosen: tick at least one under Models")
        return found

    def ready(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Those that are loaded; raise ModelError when none is, nor will be."""
        found = tuple(i for i in numbers if self.slots[i].state == READY)
        if not found and all(self.slots[i].state == FAILED for i in numbers):
            raise ModelError(self.slots[numbers[0]].error)
        return found

    def settled(self, numbers: Sequence[int]) -> bool:
        """Whether none of them is still loading."""
        return all(self.slots[i].settled for i in numbers)

    def states(self) -> tuple[str, ...]:
        """How far each model is."""
        return tuple(slot.state for slot in self.slots)


def distinct_names(slots: Sequence[ModelSlot]) -> tuple[str, ...]:
    """Names that tell the models apart: the precision is added where a name comes twice."""
    plain = [slot.name for slot in slots]
    names: tuple[str, ...] = ()
    for slot in slots:
        name = _labelled(slot) if plain.count(slot.name) > 1 else slot.name
        names = (*names, _free_name(name, names))
    return names


def _labelled(slot: ModelSlot) -> str:
    return f"{slot.name} {slot.precision}"


def _free_name(name: str, taken: Sequence[str]) -> str:
    again = sum(known == name or known.startswith(f"{name} (") for known in taken)
    return f"{name} ({again + 1})" if again else name


def split_source(source: str) -> tuple[str, str | None]:
    """Split ``FOLDER@PRECISION`` of a bundle; other MODELs have no precision."""
    folder, at, precision = source.rpartition("@")
    return (folder, precision) if at and _is_bundle(folder) else (source, None)


def _open(model: str, precision: str | None, threads: int | None) -> Embedder:
    from tinyclip_edge.evaluation.open import open_embedder

    return open_embedder(model, precision=precision, threads=threads)


def _is_bundle(model: str) -> bool:
    from tinyclip_edge.evaluation.open import is_bundle

    return is_bundle(model)


def _short(model: str) -> str:
    path = Path(model)
    return (path.resolve().name or model) if path.is_dir() else model
