"""Second moments of the inputs of products with weights, measured on calibration inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyclip_edge.errors import ModelError
from tinyclip_edge.runtime.session import session_options
from tinyclip_export.layout import Feeds
from tinyclip_export.onnx_passes.graph_utils import constants, remove_unused_constants
from tinyclip_export.quantization.block_rounding import Matrix

ROWS = 24  # per channel of the widest input; more are not needed
MEMORY = 2**30  # bytes of moments at a time; larger towers run the inputs several times


def weight_inputs(model: Any) -> dict[str, list[str]]:  # noqa: ANN401
    """Return the inputs of all products ``[..., K] x [K, N]`` by their weight's name."""
    tensors = constants(model.graph)
    inputs: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and len(getattr(tensors.get(node.input[1]), "dims", ())) == 2:
            inputs.setdefault(node.input[1], []).append(node.input[0])
    return inputs


def input_moments(source: Path, feeds: Feeds) -> Iterator[tuple[list[str], Matrix]]:
    """Yield the weights that share their inputs, and the sum of x xᵀ over the inputs, ``[K, K]``.

    Raises ModelError for activations that are not finite.
    """
    import onnx

    model = onnx.load(str(source))
    tensors = constants(model.graph)
    groups: dict[tuple[str, ...], list[str]] = {}
    for weight, inputs in weight_inputs(model).items():
        groups.setdefault(tuple(dict.fromkeys(inputs)), []).append(weight)
    sizes = {inputs: tensors[weights[0]].dims[0] for inputs, weights in groups.items()}
    while sizes:
        part: dict[tuple[str, ...], int] = {}
        for group in list(sizes):
            if part and sum(8 * size**2 for size in part.values()) > MEMORY:
                break
            part[group] = sizes.pop(group)
        for group, moments in _sums(model, part, feeds).items():
            if not np.isfinite(moments).all():
                raise ModelError(f"{group[0]} is not finite on the calibration pairs")
            yield groups[group], moments


def _sums(
    model: Any,  # noqa: ANN401
    sizes: Mapping[tuple[str, ...], int],
    feeds: Feeds,
) -> dict[tuple[str, ...], Matrix]:
    import onnxruntime as ort

    names = list(dict.fromkeys(name for inputs in sizes for name in inputs))
    content = cut_at(model, names).SerializeToString()
    session = ort.InferenceSession(content, session_options(), providers=["CPUExecutionProvider"])
    sums = {inputs: np.zeros((size, size)) for inputs, size in sizes.items()}
    counts = dict.fromkeys(sizes, 0)
    for feed in feeds():
        if min(counts.values()) >= ROWS * max(sizes.values()):
            break
        values = dict(zip(names, session.run(names, feed), strict=True))
        for inputs, size in sizes.items():
            for name in inputs:
                rows = values[name].reshape(-1, size)
                sums[inputs] += rows.T @ rows
                counts[inputs] += len(rows)
    return sums


def cut_at(model: Any, names: list[str]) -> Any:  # noqa: ANN401
    """Return a copy that computes only these values."""
    import onnx

    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    required, nodes = set(names), []
    for node in reversed(cut.graph.node):
        if required.intersection(node.output):
            nodes.append(node)
            required.update(node.input)
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(nodes)]
    del cut.graph.node[:], cut.graph.output[:]
    cut.graph.node.extend(ordered)
    cut.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    remove_unused_constants(cut.graph)
    return cut
