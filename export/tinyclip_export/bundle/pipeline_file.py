"""Both towers in one graph, the single file that transformers.js' zero-shot pipeline requires.

Its large weights are not stored twice: they are external data in the tower files beside it. Native
onnxruntime resolves that by itself, browsers with one option.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinyclip_edge.errors import ModelError
from tinyclip_edge.precisions import PRECISIONS
from tinyclip_export.layout import IMAGE_IO, TEXT_IO, TOWER_IO

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip

ModelProto: TypeAlias = Any  # onnx.ModelProto, which has no types

STEM = "model"
MIN_SHARED_BYTES = 1024  # smaller tensors are stored again


def combined_path(precision: str) -> str:
    """Return the combined file's path inside a bundle."""
    return f"onnx/{STEM}{PRECISIONS[precision].suffix}.onnx"


def write_combined(
    folder: Path, precision: str, clip: LoadedClip, *, share_weights: bool = True
) -> Path:
    """Write the combined graph of a precision whose towers are in `folder`; return its path.

    The inputs are ``input_ids [N, L]`` and ``pixel_values [B, 3, S, S]``, the outputs
    ``logits_per_image [B, N]``, ``logits_per_text [N, B]``, ``text_embeds`` and ``image_embeds``.
    Without `share_weights` the file is self-contained. Raises ModelError when a tower's file does
    not contain the weights.
    """
    import onnx

    towers = []
    for tower, io in TOWER_IO.items():
        path = folder / io.path(precision)
        model = onnx.load(str(path))
        if share_weights:
            _share_weights(model, path)
        towers.append(_add_prefix(model, f"{tower}."))
    target = folder / combined_path(precision)
    target.write_bytes(
        _combine(towers, clip.logit_scale, clip.logit_bias or 0.0).SerializeToString()
    )
    return target


def _share_weights(model: ModelProto, path: Path) -> None:
    """Replace each large tensor's bytes by a reference to the same bytes in `path`."""
    from onnx import TensorProto

    content = path.read_bytes()
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        if len(raw) < MIN_SHARED_BYTES:
            continue
        offset = content.find(raw)
        if offset < 0:
            raise ModelError(f"{path} does not contain the bytes of {tensor.name}; export it again")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", path.name), ("offset", offset), ("length", len(raw))):
            tensor.external_data.add(key=key, value=str(value))


def _add_prefix(model: ModelProto, prefix: str) -> ModelProto:
    """Prefix all names except those of inputs and outputs."""
    from onnx import compose

    return compose.add_prefix(model, prefix, rename_inputs=False, rename_outputs=False)


def _combine(towers: list[ModelProto], logit_scale: float, logit_bias: float) -> ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    image, text = towers
    opsets: dict[str, int] = {}  # the newer of both towers' opsets
    for entry in (entry for model in towers for entry in model.opset_import):
        opsets[entry.domain] = max(entry.version, opsets.get(entry.domain, 0))
    embeds = IMAGE_IO.output_name, TEXT_IO.output_name
    scales = {"logit_scale": logit_scale, "logit_bias": logit_bias}
    nodes = [
        helper.make_node("Transpose", [embeds[1]], ["text_columns"], perm=[1, 0]),
        helper.make_node("MatMul", [embeds[0], "text_columns"], ["cosines"]),
        helper.make_node("Mul", ["cosines", "logit_scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "logit_bias"], ["logits_per_image"]),
        helper.make_node("Transpose", ["logits_per_image"], ["logits_per_text"], perm=[1, 0]),
    ]
    batches = {"image_batch": image, "text_batch": text}
    for name, model in batches.items():
        for value in (*model.graph.input, *model.graph.output):
            batch = value.type.tensor_type.shape.dim[0]
            if not batch.HasField("dim_value"):  # keep a fixed batch
                batch.dim_param = name
    logits = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (
            ("logits_per_image", ["image_batch", "text_batch"]),
            ("logits_per_text", ["text_batch", "image_batch"]),
        )
    ]
    graph = helper.make_graph(
        [*image.graph.node, *text.graph.node, *nodes],
        "clip",
        [*text.graph.input, *image.graph.input],
        [*logits, *text.graph.output, *image.graph.output],
        [
            *image.graph.initializer,
            *text.graph.initializer,
            *(numpy_helper.from_array(np.float32(v), name) for name, v in scales.items()),
        ],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    version = max(model.ir_version for model in towers)
    return helper.make_model(graph, opset_imports=imports, ir_version=version)
