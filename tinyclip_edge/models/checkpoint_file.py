"""Open untrusted weight files without running code from them."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.pickle_growth import refuse_swelling
from tinyclip_edge.models.quiet import quiet
from tinyclip_edge.paths import refuse_pointer

# Training scripts also store their arguments and numpy scalars in the file: data, not code.
_SCALAR = np.float64(0).__reduce__()[0]


def _number(dtype: np.dtype[Any], value: bytes) -> Any:  # noqa: ANN401
    """Return a numpy scalar; other dtypes could claim any size without storing a value."""
    if dtype.kind not in "biufc":
        raise pickle.UnpicklingError(f"a scalar of {dtype.kind}")
    return _SCALAR(dtype, value)


_ALLOWED: tuple[Any, ...] = (
    argparse.Namespace,
    np.dtype,
    # Older and newer numpy write the same function under different module names.
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
    *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
)
MAX_SHARED = 4  # tensor bytes per byte of file; towers stored twice may share their values
_FOREIGN = re.compile(r"GLOBAL ([\w.]+)")


def read_checkpoint(path: Path) -> object:
    """Return the content of a .safetensors or torch file, tensors on the CPU in stored precision.

    Only tensors, plain containers, numpy scalars and an argparse.Namespace are unpickled.
    Raises ModelError for everything else.
    """
    refuse_pointer(path, ModelError)
    try:
        if path.suffix == ".safetensors":
            content: object = safetensors.torch.load_file(path, device="cpu")
            return content
        refuse_swelling(path)
        with quiet(), torch.serialization.safe_globals([*_ALLOWED]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except FileNotFoundError as error:
        raise ModelError(f"no weight file {path}") from error
    except MemoryError as error:
        raise ModelError(f"{path} does not fit into memory") from error
    except SafetensorError as error:
        cause = "the file is empty" if path.stat().st_size == 0 else str(error).splitlines()[0]
        raise ModelError(f"{path} is damaged or cut short: {cause}") from error
    # On broken bytes the unpickler may raise any exception.
    except Exception as error:
        raise ModelError(f"{path} {_cause(path, error)}") from error
    tensors = list(_tensors(content))
    if not all(map(_is_fully_stored, tensors)):
        raise ModelError(f"{path} has a tensor whose elements are not all stored")
    size = path.stat().st_size
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if total > MAX_SHARED * size:
        raise ModelError(
            f"{path} has tensors of {total:,} bytes in a file of {size:,}: they share their values"
        )
    return content


def _is_fully_stored(tensor: torch.Tensor) -> bool:
    """Whether the storage has a value for each element; strides of 0 could claim any size."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _tensors(content: object) -> Iterator[torch.Tensor]:
    """Yield the tensors of nested tables and lists, which may contain themselves."""
    pending, visited = [content], set()
    while pending:
        value = pending.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in visited:
            visited.add(id(value))
            pending.extend(value.values() if isinstance(value, dict) else value)


def _cause(path: Path, error: Exception) -> str:
    # A truncated archive also raises OSError (invalid argument).
    if isinstance(error, (PermissionError, IsADirectoryError)):
        return f"cannot be read: {error.strerror or error}"
    if path.stat().st_size == 0:
        return "is empty"
    foreign = _FOREIGN.search(str(error))
    if foreign:
        return (
            f"cannot be read as plain weights: it is a pickle that imports {foreign[1]}, which "
            "may run code; convert it to .safetensors where it can be trusted"
        )
    if "TorchScript" in str(error):
        return "is a TorchScript program, not weights; OpenAI's own open by name (ViT-B-32/openai)"
    with path.open("rb") as file:
        archive = file.read(4) == b"PK\x03\x04"
    if archive and not zipfile.is_zipfile(path):
        return "is damaged or cut short"
    return "cannot be read as plain weights: it is not a checkpoint, or is damaged"
