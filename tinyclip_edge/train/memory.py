"""Memory used by a process, and the error when a device runs out of it."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tinyclip_edge.config import OptimConfig, RunConfig
from tinyclip_edge.errors import TinyClipError
from tinyclip_edge.inheritance.mapping import WeightMapping

FLOAT, HALF = 4, 2  # bytes
TRAINED = 4  # floats per trained parameter: itself, its gradient, AdamW's two moments
MOMENTS = 2  # of these four
AVERAGED = 1  # another float per parameter with optim.ema
KIB = 1024  # Linux's unit of resident memory; macOS counts bytes


def student_bytes(model: nn.Module, optim: OptimConfig) -> int:
    """Return the bytes of parameters, with gradients, moments and average of those trained."""
    averaged = 0 if optim.ema is None else AVERAGED
    return FLOAT * sum(
        weight.numel() * ((TRAINED if weight.requires_grad else 1) + averaged)
        for weight in model.parameters()
    )


def factor_bytes(mapping: WeightMapping) -> int:
    """Return the bytes of a mapping's factors, with gradients and moments."""
    return FLOAT * TRAINED * sum(factor.numel() for factor in mapping.parameters())


def mapped_bytes(model: nn.Module, mapping: WeightMapping, optim: OptimConfig) -> int:
    """Return the bytes of a student while a mapping makes its weights, without activations.

    Includes the teacher's weights, the factors, the weights made from both and what their gradient
    needs. The student's own copies of these weights have no moments.
    """
    saved = SavedBytes([*mapping.parameters(), *mapping.buffers()])
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        weights = mapping()
    made = FLOAT * sum(weight.numel() for weight in weights.values())
    held: int = sum(buffer.nbytes for buffer in mapping.buffers())
    of_mapping = held + factor_bytes(mapping) + made + saved.peak
    total: int = student_bytes(model, optim) - MOMENTS * made + of_mapping
    return total


def peak_bytes() -> int:
    """Return the peak memory so far: that of the CUDA device if there is one, else resident."""
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
    """Context of a step. Raises TinyClipError, with advice, if the device runs out of memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        size, run = config.optim.batch_size, config.run
        cures = [] if run.grad_checkpointing else ["run.grad_checkpointing=true"]
        smaller = max(1, (run.micro_batch or size) // 2)
        cures.append(f"run.micro_batch={smaller}")
        raise TinyClipError(
            f"out of device memory at step {step} with optim.batch_size "
            f"{size}{_in_parts(run.micro_batch)}; set {' and '.join(cures)} and continue with "
            f"--resume ({_first_line(error)})"
        ) from error


def _in_parts(micro_batch: int | None) -> str:
    return "" if micro_batch is None else f" in parts of {micro_batch}"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0]


class SavedBytes:
    """Counts what autograd saves for the backward pass, without parameters, each storage once."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = {_address(parameter) for parameter in parameters}
        self._users: Counter[int] = Counter()  # by the address of the storage
        self._bytes = 0
        self.peak = 0

    def pack(self, tensor: Tensor) -> SavedTensor:
        """Count a tensor when it is saved."""
        return SavedTensor(tensor, self)

    def unpack(self, saved: SavedTensor) -> Tensor:
        """Return the tensor."""
        return saved.tensor

    def add(self, address: int, nbytes: int) -> None:
        """Count one more user of a storage."""
        if address not in self._parameters:
            self._users[address] += 1
            self._bytes += nbytes if self._users[address] == 1 else 0
            self.peak = max(self.peak, self._bytes)

    def remove(self, address: int, nbytes: int) -> None:
        """Count one user fewer."""
        if address not in self._parameters:
            self._users[address] -= 1
            self._bytes -= 0 if self._users[address] else nbytes


class SavedTensor:
    """A saved tensor; autograd drops it once its gradient has been computed."""

    def __init__(self, tensor: Tensor, counter: SavedBytes) -> None:
        self.tensor = tensor
        address, nbytes = _address(tensor), tensor.untyped_storage().nbytes()
        counter.add(address, nbytes)
        weakref.finalize(self, counter.remove, address, nbytes)


def _address(tensor: Tensor) -> int:
    storage = tensor.untyped_storage()
    # The meta device has no memory, but its storage objects have addresses.
    return storage.data_ptr() or int(storage._cdata)
