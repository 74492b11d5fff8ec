"""Export a tower as a self-contained ONNX file with dynamic axes and no traces of this machine."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tinyclip_edge.errors import ModelError, first_line
from tinyclip_edge.models.quiet import quiet
from tinyclip_export.layout import MIN_TOKENS, TEXT_IO, InputForm, TowerIO
from tinyclip_export.onnx_passes.narrow_ids import narrow_ids
from tinyclip_export.onnx_passes.plain_norm import write_out_norms
from tinyclip_export.towers.factory import AnyTextTower
from tinyclip_export.towers.fixed_length_text import FixedLengthTextTower

OPSET = 20  # the first with Gelu as a single node; LayerNormalization has one since 17
SINGLE_FILE_LIMIT = 2 * 1024**3 - 64 * 1024**2  # bytes; protobuf's limit is 2 GiB

LAYERS = ("MatMul", "Gemm", "Conv")
# Metadata of torch's exporter: the modules that a node comes from.
_SCOPES = "pkg.torch.onnx.name_scopes"

ModelProto: TypeAlias = Any  # onnx.ModelProto, which has no types


def export_image_tower(
    tower: nn.Module, path: Path, *, image_size: int, form: InputForm | None = None
) -> None:
    """Write `tower` for ``pixel_values`` float32 ``[batch, 3, image_size, image_size]``.

    `form` may fix the batch. Raises ModelError for a tower that torch cannot export.
    """
    form = form or InputForm()
    io = form.io("image")
    example = torch.zeros(_batch(form), 3, image_size, image_size)
    _export(tower, example, path, io, dict(io.dynamic_axes), form)


def export_text_tower(tower: AnyTextTower, path: Path, *, form: InputForm | None = None) -> None:
    """Write `tower` for ``input_ids`` int64 ``[batch, sequence]``, from 2 to context length tokens.

    `form` may fix both axes and narrow the ids to int32. Raises ModelError.
    """
    form = form or InputForm(padded=isinstance(tower, FixedLengthTextTower))
    context_length = tower.context_length
    if context_length <= MIN_TOKENS:
        raise ModelError(
            f"context_length {context_length} leaves no room for a word; use 3 or more"
        )
    io = form.io("text")
    length = context_length if form.padded else context_length - 1
    example = torch.ones(_batch(form), length, dtype=torch.int64)
    dims: dict[int, Any] = dict(io.dynamic_axes)
    if 1 in dims:
        dims[1] = torch.export.Dim(dims[1], min=MIN_TOKENS, max=context_length)
    _export(tower, example, path, io, dims, form)


def _batch(form: InputForm | None) -> int:
    # Not 1, since torch would make an axis of size 1 static.
    return form.batch if form and form.batch else 2


def strip_traces(model: ModelProto) -> None:
    """Remove doc strings and node metadata, in which exporters store stack traces and paths.

    Shapes of intermediate values are removed too: onnxruntime plans memory by them, and with shapes
    that it infers itself, towers are 1 % faster.
    """
    graph = model.graph
    del graph.value_info[:]
    messages = [model, graph, *graph.node, *graph.input, *graph.output]
    messages += [*graph.initializer, *model.functions]
    for function in model.functions:
        messages += [*function.node, *function.value_info]
    for message in messages:
        message.ClearField("doc_string")
        message.ClearField("metadata_props")


def name_layers(model: ModelProto) -> None:
    """Name each MatMul, Gemm or Conv with a weight after its module, such as ``body.0.up``.

    Reads the exporter's metadata, so call it before strip_traces.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    used_names = {node.name for node in graph.node}
    for node in graph.node:
        if node.op_type not in LAYERS or not weights.intersection(node.input):
            continue
        scope_values = [entry.value for entry in node.metadata_props if entry.key == _SCOPES]
        scopes = ast.literal_eval(scope_values[0]) if scope_values else []
        # The last scope is the operation itself.
        if len(scopes) > 1 and scopes[-2] and scopes[-2] not in used_names:
            node.name = scopes[-2]
            used_names.add(node.name)


def _export(
    tower: nn.Module,
    example: Tensor,
    path: Path,
    io: TowerIO,
    dims: dict[int, Any],
    form: InputForm,
) -> None:
    """Write the file; `dims` has a Dim per dynamic axis, or its name for any size.

    A Dim without bounds is stricter than a name: torch 2.9 refuses it if tracing adds any guard.
    """
    import onnx

    weights = sum(p.numel() * p.element_size() for p in tower.parameters())
    if weights > SINGLE_FILE_LIMIT:
        raise ModelError(
            f"{io.output_name} tower has {weights / 1024**3:.1f} GiB of weights; one ONNX file "
            "can have at most 2 GiB: distil a smaller student first"
        )
    try:
        with quiet(), torch.no_grad(), _uncollected():
            program = torch.onnx.export(
                tower.eval(),
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[io.input_name],
                output_names=[io.output_name],
                dynamic_shapes=(dims,),
                external_data=False,
            )
    # Whatever a module raises while it is traced, torch wraps it in one of these.
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        raise _export_error(tower, io, error) from error
    assert program is not None
    model = program.model_proto
    name_layers(model)
    if form.ids == "int32" and io.input_name == TEXT_IO.input_name:
        narrow_ids(model)
    if form.plain:
        write_out_norms(model)
    strip_traces(model)
    onnx.save_model(model, str(path))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause garbage collection, which finds nothing while a tower is traced and takes time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _export_error(tower: nn.Module, io: TowerIO, error: Exception) -> ModelError:
    """Return an error that names the tower and the root cause."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    name = type(getattr(tower, "trunk", tower)).__name__
    return ModelError(
        f"{io.output_name} tower {name} cannot be exported: torch stops at: "
        f"{first_line(cause)[:160]}; open_clip's ViT and ResNet and most image towers of timm can"
    )
