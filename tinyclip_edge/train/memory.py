"""How much memory a process has used, and what to do when a device has no more."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tinyclip_edge.config import RunConfig
from tinyclip_edge.errors import TinyClipError

FLOAT, HALF = 4, 2  # bytes
TRAINED = 4  # floats a trained parameter: itself, its gradient, AdamW's two moments
KIB = 1024  # Linux counts resident memory in it, macOS in bytes


def peak_bytes() -> int:
    """Return the most memory held so far: on the CUDA device if there is one, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else KIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def enough_memory(config: RunConfig, step: int) -> Iterator[None]:
    """Context of a step; TinyClipError with what would help when the device's memory ends."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        size, run = config.optim.batch_size, config.run
        cures = [] if run.grad_checkpointing else ["run.grad_checkpointing=true"]
        smaller = max(1, (run.micro_batch or size) // 2)
        cures.append(f"run.micro_batch={smaller}")
        raise TinyClipError(
            f"out of device memory at step {step} with optim.batch_size {size}"
            f"{_told(run.micro_batch)}; set {' and '.join(cures)} and go on with --resume "
            f"({_first_line(error)})"
        ) from error


def _told(micro_batch: int | None) -> str:
    return "" if micro_batch is None else f" in parts of {micro_batch}"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0]


class SavedBytes:
    """Counts what autograd holds for backward passes, parameters apart, each storage once."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = {_address(parameter) for parameter in parameters}
        self._holders: Counter[int] = Counter()  # by the storage's address
        self._held = 0
        self.peak = 0

    def pack(self, tensor: Tensor) -> Held:
        """Count a tensor as it is saved."""
        return Held(tensor, self)

    def unpack(self, held: Held) -> Tensor:
        """Hand it back."""
        return held.tensor

    def take(self, address: int, nbytes: int) -> None:
        """One more wants this storage."""
        if address not in self._parameters:
            self._holders[address] += 1
            self._held += nbytes if self._holders[address] == 1 else 0
            self.peak = max(self.peak, self._held)

    def give(self, address: int, nbytes: int) -> None:
        """One less does."""
        if address not in self._parameters:
            self._holders[address] -= 1
            self._held -= 0 if self._holders[address] else nbytes


class Held:
    """A saved tensor; autograd drops it as soon as its gradient is there."""

    def __init__(self, tensor: Tensor, counter: SavedBytes) -> None:
        self.tensor = tensor
        address, nbytes = _address(tensor), tensor.untyped_storage().nbytes()
        counter.take(address, nbytes)
        weakref.finalize(self, counter.give, address, nbytes)


def _address(tensor: Tensor) -> int:
    storage = tensor.untyped_storage()
    # On the meta device there is no memory; what describes it has an address.
    return storage.data_ptr() or int(storage._cdata)
