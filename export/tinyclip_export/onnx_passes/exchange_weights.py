"""Exchange the weights of an exported tower, because tracing a new export takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn


def exchange_weights(source: Path, target: Path, before: nn.Module, after: nn.Module) -> bool:
    """Write `source`, the export of `before`, with the weights of `after` to `target`.

    The modules may differ only in the values of parameters. A parameter is looked up in the graph
    by its name, or as a constant with its values, possibly transposed. Returns False, and writes
    nothing, if a changed parameter is not there, for example if it was folded into others.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(source))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    changes: dict[str, Any] = {}
    new_values = dict(after.named_parameters())
    for name, parameter in before.named_parameters():
        old, new = parameter.detach().numpy(), new_values[name].detach().numpy()
        if np.array_equal(old, new):
            continue
        places = [name] if name in tensors else _constants_of(tensors, old)
        if len(places) != 1 or places[0] in changes:
            return False
        constant = numpy_helper.to_array(tensors[places[0]])
        if np.array_equal(constant, old):
            changes[places[0]] = new
        elif np.array_equal(constant, old.T):
            changes[places[0]] = new.T
        else:
            return False
    for name, values in changes.items():
        tensor = numpy_helper.from_array(np.ascontiguousarray(values), name)
        tensors[name].CopyFrom(tensor)
    onnx.save_model(model, str(target))
    return True


def _constants_of(tensors: dict[str, Any], values: np.ndarray) -> list[str]:
    """Return the names of the constants with these values, as they are or transposed."""
    from onnx import numpy_helper

    shapes = (list(values.shape), list(values.T.shape))
    return [
        name
        for name, tensor in tensors.items()
        if list(tensor.dims) in shapes
        for constant in [numpy_helper.to_array(tensor)]
        if np.array_equal(constant, values) or np.array_equal(constant, values.T)
    ]
