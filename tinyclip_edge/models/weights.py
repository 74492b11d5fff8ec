"""Read weight files that may be broken, and load them into a network strictly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.checkpoint_file import read_checkpoint
from tinyclip_edge.paths import refuse_pointer

NAMES_SHOWN = 5
RESIZED = ("positional_embedding", "pos_embed")  # by open_clip, to the config's image and context
MAX_GROWTH = 2  # values of a network per value in its file; resized positions are few
SCALES = ("logit_scale", "logit_bias")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the plain weights of a .safetensors or torch file; floats become float32."""
    state = read_checkpoint(path)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    return plain_weights(state, str(path))


def plain_weights(state: object, source: str) -> dict[str, Tensor]:
    """Return a table of tensors with floats as float32; ModelError for any other content."""
    if not isinstance(state, dict) or not state:
        raise ModelError(f"{source} holds no weights")
    odd = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise ModelError(f"{source} has values that are not tensors: {listed('entries', odd)}")
    return {str(k): t.float() if t.is_floating_point() else t for k, t in state.items()}


def refuse_broken(state: Mapping[str, Tensor], source: str) -> None:
    """Raise ModelError when a weight is NaN or infinite."""
    broken = [k for k, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise ModelError(f"{source} has NaN or infinite values: {listed('tensors', broken)}")


def fill(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load weights strictly: missing, unknown, misshapen or non-finite ones are refused by name."""
    check_fit(state, model.state_dict(), source)
    refuse_broken(state, source)
    model.load_state_dict(state)


def check_fit(state: dict[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Raise ModelError unless ``state`` has the names and shapes of ``expected``.

    Those tensors may be on the meta device. A scale is reshaped in place, because published files
    disagree on [] and [1].
    """
    for key in SCALES:
        if key in expected and key in state and state[key].numel() == expected[key].numel():
            state[key] = state[key].reshape(expected[key].shape)
    fused = next((key for key in state if ".reparam_conv." in key and key not in expected), None)
    if fused is not None:
        raise ModelError(
            f"{source} is fused for inference ('{fused}'), but models are built with the training "
            "branches; give the unfused weights"
        )
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    shapes = [
        f"{key} {list(state[key].shape)} for {list(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    refuse_faults(source, missing=missing, unknown=extra, misshapen=shapes)


def stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a weight file's tensors; of safetensors only the header is read.

    Raises ModelError for a damaged file.
    """
    if path.suffix != ".safetensors":
        return {key: tuple(tensor.shape) for key, tensor in read_weights(path).items()}
    refuse_pointer(path, ModelError)
    try:
        with safe_open(path, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is damaged or cut short: {str(error).splitlines()[0]}") from error


def refuse_larger(
    expected: Mapping[str, Tensor], stored: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Raise ModelError for a network that is much larger than its weight file.

    open_clip may resize positions and rename tensors when it reads the file.
    """
    misshapen = [
        f"{key} {list(stored[key])} for {list(tensor.shape)}"
        for key, tensor in expected.items()
        if key in stored and math.prod(stored[key]) != tensor.numel() and not key.endswith(RESIZED)
    ]
    refuse_faults(source, misshapen=misshapen)
    sizes = {key: tensor.numel() for key, tensor in expected.items()}
    total = sum(math.prod(shape) for shape in stored.values())
    if sum(sizes.values()) > MAX_GROWTH * total:
        largest = max(sizes, key=sizes.__getitem__)
        raise ModelError(
            f"{source} has {total:,} values, its config needs {sum(sizes.values()):,}, most of "
            f"them in {largest} {list(expected[largest].shape)}"
        )


def refuse_faults(source: str, **names: Sequence[str]) -> None:
    """Raise ModelError when any of the named kinds of fault (``missing=…``) has tensors."""
    faults = [listed(kind, tensors) for kind, tensors in names.items() if tensors]
    if faults:
        raise ModelError(f"{source} does not fit its config: {'; '.join(faults)}")


def listed(label: str, names: Iterable[str]) -> str:
    """Return a count and the first few names: ``12 missing (a, b, c, d, e, …)``."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:NAMES_SHOWN])
    return f"{len(ordered)} {label} ({shown}{', …' if len(ordered) > NAMES_SHOWN else ''})"
