"""A tower as one self-contained ONNX file with dynamic axes and nothing of this machine in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.quiet import quiet
from tinyclip_export.layout import IMAGE_IO, MIN_TOKENS, TEXT_IO, TowerIO
from tinyclip_export.towers import TextTower

OPSET = 20  # the first with Gelu as one node; from 17 on LayerNormalization is one
SINGLE_FILE_LIMIT = 2 * 1024**3 - 64 * 1024**2  # bytes; protobuf ends at 2 GiB

ModelProto: TypeAlias = Any  # onnx.ModelProto, which has no types


def export_image_tower(tower: nn.Module, path: Path, *, image_size: int) -> None:
    """Write `tower` for ``pixel_values`` float32 ``[batch, 3, image_size, image_size]``."""
    example = torch.zeros(2, 3, image_size, image_size)
    _export(tower, example, path, IMAGE_IO, {0: torch.export.Dim("batch")})


def export_text_tower(tower: TextTower, path: Path) -> None:
    """Write `tower` for ``input_ids`` int64 ``[batch, sequence]``, sequence 2 up to the context."""
    context = tower.context_length
    if context <= MIN_TOKENS:
        raise ModelError(f"context_length {context} leaves no room for a word; use 3 or more")
    example = torch.ones(2, context - 1, dtype=torch.int64)
    sequence = torch.export.Dim("sequence", min=MIN_TOKENS, max=context)
    _export(tower, example, path, TEXT_IO, {0: torch.export.Dim("batch"), 1: sequence})


def strip_traces(model: ModelProto) -> None:
    """Remove doc strings and per-node metadata, where exporters leave stack traces and paths."""
    graph = model.graph
    holders = [model, graph, *graph.node, *graph.input, *graph.output]
    holders += [*graph.value_info, *graph.initializer, *model.functions]
    for function in model.functions:
        holders += [*function.node, *function.value_info]
    for holder in holders:
        holder.ClearField("doc_string")
        holder.ClearField("metadata_props")


def _export(
    tower: nn.Module, example: Tensor, path: Path, io: TowerIO, dims: dict[int, Any]
) -> None:
    import onnx

    weights = sum(p.numel() * p.element_size() for p in tower.parameters())
    if weights > SINGLE_FILE_LIMIT:
        raise ModelError(
            f"{io.output_name} tower has {weights / 1024**3:.1f} GiB of weights; one ONNX file "
            "holds at most 2 GiB: distil a smaller student first"
        )
    with quiet(), torch.no_grad():
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
    assert program is not None
    model = program.model_proto
    strip_traces(model)
    onnx.save_model(model, str(path))
