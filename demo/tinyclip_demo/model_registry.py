"""The models of the page: named at once, loaded one by one in the background."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Sequence

from PIL import Image

from tinyclip_edge.errors import ConfigError, ModelError, TinyClipError
from tinyclip_edge.paths import model_name
from tinyclip_edge.runtime.confidence import Confidence
from tinyclip_edge.runtime.protocol import Embedder, EmbedderSpec

WAITING, LOADING, READY, FAILED = "waiting", "loading", "ready", "failed"
MAX_MODELS = 12


class ModelSlot:
    """One model: its name, the state of loading, and the embedder once loaded."""

    def __init__(self, source: str | Embedder, *, threads: int | None = None) -> None:
        """Read only a bundle's manifest; raise BundleError when it is broken.

        ``source`` is a MODEL; a bundle may also be ``FOLDER@PRECISION``.
        """
        self.threads = threads
        self.state = WAITING
        self.error = ""
        self.seconds = 0.0
        self.spec: EmbedderSpec | None = None  # known at once for a bundle, otherwise after loading
        self._embedder: Embedder | None = None
        if not isinstance(source, str):
            self.model, self.state = "", READY
            self._adopt(source)
            return
        self.model, precision = split_source(source)
        if _is_bundle(self.model):
            self._adopt(_open(self.model, precision, threads))
        else:
            self.name, self.runtime, self.precision = model_name(self.model), "torch", "fp32"

    @property
    def embedder(self) -> Embedder:
        """The loaded model; raises ModelError while it is loading or if it failed."""
        if self._embedder is None or self.state != READY:
            raise ModelError(self.error or f"{self.name} is still loading: try again in a moment")
        return self._embedder

    @property
    def confidence(self) -> Confidence | None:
        """The labels for which a bundle has a calibrated threshold, if it has one."""
        confidence: Confidence | None = getattr(self._embedder, "confidence", None)
        return confidence

    @property
    def is_settled(self) -> bool:
        """Whether loading has succeeded or failed."""
        return self.state in (READY, FAILED)

    def load(self) -> None:
        """Open the model and run it once; an error is stored in the slot as one line."""
        self.state, start = LOADING, time.perf_counter()
        try:
            embedder = self._embedder or _open(self.model, None, self.threads)
            # Triggers lazy loading, so that the first timing is not misleading.
            embedder.encode_image([Image.new("RGB", (64, 64), "grey")])
            embedder.encode_text(["picture"])
        except TinyClipError as error:
            self._fail(str(error))
        # A library's error must not leave the page waiting forever.
        except Exception as error:
            self._fail(
                f"{self.model} does not run: {(str(error).splitlines() or [repr(error)])[0]}"
            )
        else:
            self.seconds = time.perf_counter() - start
            name = self.name
            self._adopt(embedder)
            self.name, self.state = name, READY

    def reopen(self, threads: int) -> Embedder:
        """Return the model with a number of threads: a bundle reopened, a PyTorch model as is."""
        if self.runtime != "onnxruntime" or not self.model:
            return self.embedder
        return _open(self.model, self.precision, threads)

    def _adopt(self, embedder: Embedder) -> None:
        self._embedder, self.spec, self.name = embedder, embedder.spec, embedder.name
        self.runtime, self.precision = self.spec.runtime, self.spec.precision

    def _fail(self, message: str) -> None:
        self.error, self.state = message, FAILED
        sys.stderr.write(f"demo: {message}\n")


class ModelRegistry:
    """All models of the page; the first is the reference."""

    def __init__(self, models: Sequence[str | Embedder], *, threads: int | None = None) -> None:
        if not models:
            raise ConfigError("the demo needs a model: give MODEL, --teacher or --student")
        self._threads = threads
        self._lock = threading.Lock()
        self._loader: threading.Thread | None = None
        self.slots = [ModelSlot(model, threads=threads) for model in models]
        self.names = distinct_names(self.slots)

    def __len__(self) -> int:
        return len(self.slots)

    def start(self) -> None:
        """Load waiting models in the background, bundles first since they load fastest."""
        if all(slot.state != WAITING for slot in self.slots):
            return
        if self._loader is None or not self._loader.is_alive():
            self._loader = threading.Thread(target=self.load_all, name="load-models", daemon=True)
            self._loader.start()

    def load_all(self) -> None:
        """Load all waiting models; concurrent callers load each model once."""
        with self._lock:
            # Listed again after each one, since models may be added meanwhile.
            while waiting := [slot for slot in self.slots if slot.state == WAITING]:
                min(waiting, key=lambda slot: slot.runtime != "onnxruntime").load()

    def add(self, source: str) -> str:
        """Add a MODEL and start loading it; return its name.

        Raises ConfigError for an empty or repeated name, and for too many models.
        """
        source = source.strip()
        if not source:
            raise ConfigError("no model: enter a folder, an open_clip name or hf-hub:owner/name")
        if len(self.slots) >= MAX_MODELS:
            raise ConfigError(f"the page compares at most {MAX_MODELS} models")
        slot = ModelSlot(source, threads=self._threads)
        if any((s.model, s.precision) == (slot.model, slot.precision) for s in self.slots):
            raise ConfigError(f"{source} is already on the page")
        self.slots.append(slot)
        # Existing names stay unchanged, since open pages refer to them.
        self.names = (*self.names, _free_name(_labelled(slot), self.names))
        self.start()
        return self.names[-1]

    def numbers(self, names: Iterable[str] | None = None) -> tuple[int, ...]:
        """Return the positions of the selected names (None: all); ConfigError if there are none."""
        selected = set(self.names if names is None else names)
        numbers = tuple(i for i, name in enumerate(self.names) if name in selected)
        if not numbers:
            raise ConfigError("no model is chosen: tick at least one under Models")
        return numbers

    def ready(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Return those of the models that are loaded; raise ModelError if all have failed."""
        loaded = tuple(i for i in numbers if self.slots[i].state == READY)
        if not loaded and all(self.slots[i].state == FAILED for i in numbers):
            raise ModelError(self.slots[numbers[0]].error)
        return loaded

    def is_settled(self, numbers: Sequence[int]) -> bool:
        """Whether none of these models is still loading."""
        return all(self.slots[i].is_settled for i in numbers)

    def states(self) -> tuple[str, ...]:
        """Return the state of each model."""
        return tuple(slot.state for slot in self.slots)


def distinct_names(slots: Sequence[ModelSlot]) -> tuple[str, ...]:
    """Return distinct names of the models; the precision is added to names that repeat."""
    slot_names = [slot.name for slot in slots]
    names: tuple[str, ...] = ()
    for slot in slots:
        name = _labelled(slot) if slot_names.count(slot.name) > 1 else slot.name
        names = (*names, _free_name(name, names))
    return names


def _labelled(slot: ModelSlot) -> str:
    return f"{slot.name} {slot.precision}"


def _free_name(name: str, existing: Sequence[str]) -> str:
    duplicates = sum(other == name or other.startswith(f"{name} (") for other in existing)
    return f"{name} ({duplicates + 1})" if duplicates else name


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
