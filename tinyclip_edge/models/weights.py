"""Read weight files that may be broken, and fill a network with them without a tensor left over."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tinyclip_edge.errors import ModelError

NAMES_SHOWN = 3


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file, or a torch file without unpickling code; floats become float32."""
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path, device="cpu")
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"no weight file {path}") from error
    except SafetensorError as error:
        cause = "the file is empty" if path.stat().st_size == 0 else str(error).splitlines()[0]
        raise ModelError(f"{path} is damaged or cut short: {cause}") from error
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{path} cannot be read as plain weights; convert it to .safetensors"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state:
        raise ModelError(f"{path} holds no weights")
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} holds something else than tensors")
    return {key: t.float() if t.is_floating_point() else t for key, t in state.items()}


def fill(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load weights strictly: missing, unknown, misshapen or non-finite ones are refused by name."""
    expected = model.state_dict()
    for key in ("logit_scale", "logit_bias"):
        # Published files disagree on [] and [1].
        if key in expected and key in state and state[key].numel() == expected[key].numel():
            state[key] = state[key].reshape(expected[key].shape)
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    shapes = [
        f"{key} {list(state[key].shape)} for {list(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    faults = [
        _listed(count, names)
        for count, names in (("missing", missing), ("unknown", extra), ("misshapen", shapes))
        if names
    ]
    if faults:
        raise ModelError(f"{source} does not fit its config: {'; '.join(faults)}")
    broken = [k for k, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise ModelError(f"{source} has NaN or infinite values: {_listed('tensors', broken)}")
    model.load_state_dict(state)


def _listed(label: str, names: Iterable[str]) -> str:
    listed = sorted(names)
    shown = ", ".join(listed[:NAMES_SHOWN])
    return f"{len(listed)} {label} ({shown}{', …' if len(listed) > NAMES_SHOWN else ''})"
