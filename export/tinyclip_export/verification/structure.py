"""Whether the files of a bundle follow the rules of its target's engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tinyclip_export.verification.engine_rules import RULES, EngineRules
from tinyclip_export.verification.failures import StructureError
from tinyclip_export.verification.gates import VerificationReport

Onnx: TypeAlias = Any  # a message of onnx, which has no types

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
MOST_SHOWN = 3  # faults of a file in a message


def check_target(
    folder: Path, target: str | None, precision: str, report: VerificationReport
) -> None:
    """Compare every ONNX file of a folder with the target's rules; noted under the precision.

    Raises GatesFailedError that names the first faults of each file.
    """
    rules = None if target is None else RULES.get(target)
    if rules is None:
        return
    for path in sorted(folder.rglob("*.onnx")):
        name = path.relative_to(folder).as_posix()
        check = partial(check_file, path, f"{name} for {target}", rules)
        report.attempt(precision, f"{name} structure", check)
    report.raise_failures()


def check_file(path: Path, label: str, rules: EngineRules) -> None:
    """Raise StructureError unless an ONNX file follows the rules."""
    import onnx

    faults = list(structure_faults(onnx.load(str(path), load_external_data=False), rules))
    if faults:
        more = f"; and {len(faults) - MOST_SHOWN} more" if len(faults) > MOST_SHOWN else ""
        raise StructureError(f"{label}: {'; '.join(faults[:MOST_SHOWN])}{more}")


def structure_faults(model: Onnx, rules: EngineRules) -> Iterator[str]:
    """Yield one text for each rule that a model breaks."""
    yield from _operator_faults(model, rules)
    yield from _value_faults(model, rules)
    if rules.symmetric:
        yield from _scale_faults(model.graph)


def _operator_faults(model: Onnx, rules: EngineRules) -> Iterator[str]:
    least, most = rules.opsets
    for entry in model.opset_import:
        if entry.domain == "" and not least <= entry.version <= most:
            yield f"opset {entry.version} is not {least} to {most}"
    used = Counter((node.domain, node.op_type) for node in model.graph.node)
    for (domain, name), count in used.items():
        # Both names of ONNX's own domain.
        allowed = rules.operators.get("" if domain == "ai.onnx" else domain, frozenset())
        if name not in allowed:
            yield f"operator {domain + ':' if domain else ''}{name} ({count}) is not supported"
    if model.functions:
        yield f"{len(model.functions):,} functions are not supported"


def _value_faults(model: Onnx, rules: EngineRules) -> Iterator[str]:
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    stored = {tensor.name: tensor for tensor in inferred.initializer}
    values = {
        value.name: value for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    for tensor in stored.values():
        if (fault := _type_fault(tensor.name, tensor.data_type, rules.constants)) is not None:
            yield fault
    for node in inferred.node:
        for name in node.output:
            if name and name not in values:
                yield f"{name} of {node.op_type} has an unknown shape"
    ports = {value.name for value in (*inferred.input, *inferred.output)}
    for name, value in values.items():
        tensor_type = value.type.tensor_type
        allowed = rules.ports if name in ports else rules.types
        if (fault := _type_fault(name, tensor_type.elem_type, allowed)) is not None:
            yield fault
        sizes = tensor_type.shape.dim
        if len(sizes) > rules.rank:
            yield f"{name} has rank {len(sizes)}, above {rules.rank}"
        known = tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in sizes)
        if rules.static and not known:
            shown = ", ".join(str(d.dim_value or d.dim_param or "?") for d in sizes)
            yield f"{name} has no fixed shape: [{shown}]"


def _type_fault(name: str, data_type: int, allowed: Collection[str]) -> str | None:
    from onnx import TensorProto

    kind = TensorProto.DataType.Name(data_type)
    return None if kind in allowed else f"{name} is {kind}, which the engine does not support"


def _scale_faults(graph: Onnx) -> Iterator[str]:
    """Yield the scales that are not constants and the zero points that are not 0."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in QUANTIZERS:
            continue
        for name in node.input[1:]:
            if name not in stored:
                yield f"{node.op_type} {node.name}: {name} is not a constant"
        zero = node.input[2] if len(node.input) > 2 else ""
        if zero in stored and np.any(numpy_helper.to_array(stored[zero])):
            yield f"{node.op_type} {node.name}: zero point {zero} is not 0"
