"""Image towers that take a decoded picture and resize, crop and normalise it in the graph.

The caller decodes as ``open_image`` does: 8-bit RGB, rotated by EXIF, transparency on white.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyclip_edge.errors import ConfigError
from tinyclip_edge.precisions import PRECISIONS
from tinyclip_export.layout import IMAGE_IO
from tinyclip_export.verification.failures import ValuesError
from tinyclip_export.verification.golden import golden_images

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip
    from tinyclip_edge.runtime.preprocess import Preprocess

ModelProto: TypeAlias = Any  # onnx.ModelProto, which has no types
Pixels: TypeAlias = npt.NDArray[np.uint8]

INPUT = "image"
STEM = "pixel_vision_model"  # a prefix, since a suffix of IMAGE_IO.stem names a precision
MAX_LEVELS = 2  # of 255, maximum difference of a pixel from Pillow's
MIN_COSINE = 0.999
_PREFIX = "tower."
_MODES: dict[str, dict[str, Any]] = {
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5},
    "bilinear": {"mode": "linear"},
}
_SIZES = ((7, 5), (31, 200), (224, 224), (333, 257), (640, 481))  # height, width


def pixel_tower_path(precision: str) -> str:
    """Return the file's path inside a bundle."""
    return f"onnx/{STEM}{PRECISIONS[precision].suffix}.onnx"


def write_pixel_towers(clip: LoadedClip, folder: Path, precisions: Sequence[str]) -> dict[str, Any]:
    """Write one file per precision, ``image`` uint8 ``[H, W, 3]`` to ``image_embeds [1, D]``.

    Returns the manifest's figures: the differences of pixels and embeddings from those with Pillow.
    Raises ConfigError for preprocessing that cannot be expressed, ValuesError for differences that
    are too large.
    """
    import onnx

    preprocess = runtime_preprocess(clip)
    preprocessing = preprocessing_graph(preprocess)
    levels, share = _pixel_difference(preprocessing, preprocess)
    figures: dict[str, Any] = {
        "input": "image uint8 [height, width, 3], RGB, upright by EXIF, transparency on white",
        "files": {},
        "pixel_levels_max": levels,
        "pixels_changed": round(share, 6),
        "cosine_min": {},
    }
    for precision in precisions:
        tower = onnx.load(str(folder / IMAGE_IO.path(precision)))
        target = folder / pixel_tower_path(precision)
        target.write_bytes(prepend_graph(preprocessing, tower).SerializeToString())
        cosine = _min_cosine(target, folder / IMAGE_IO.path(precision), preprocess)
        if levels > MAX_LEVELS or not cosine >= MIN_COSINE:
            raise ValuesError(
                f"{precision} uint8 tower: pixels are {levels} levels and embeddings {cosine:.5f} "
                f"from Pillow's; {MAX_LEVELS} and {MIN_COSINE} are allowed"
            )
        figures["files"][precision] = pixel_tower_path(precision)
        figures["cosine_min"][precision] = round(cosine, 6)
    return figures


def runtime_preprocess(clip: LoadedClip) -> Preprocess:
    """Return the preprocessing of a model's bundle, which uses Pillow."""
    from tinyclip_edge.runtime.preprocess import Preprocess

    return Preprocess.from_config(clip.config["preprocess_cfg"] | {"size": clip.image_size})


def preprocessing_graph(preprocess: Preprocess) -> ModelProto:
    """Return the graph from ``image`` uint8 ``[H, W, 3]`` to ``pixel_values [1, 3, S, S]``.

    It resizes in uint8, as Pillow does, so that onnxruntime's antialiased kernel rounds likewise.
    Raises ConfigError for a resize mode that the graph cannot express.
    """
    from onnx import TensorProto, helper, numpy_helper

    side = preprocess.width
    if preprocess.height != side or preprocess.resize_mode not in ("shortest", "squash"):
        raise ConfigError(
            f"preprocessing of {preprocess.height}x{side} with resize_mode "
            f"'{preprocess.resize_mode}' cannot be part of the graph; omit --embed-preprocessing"
        )
    values = {
        "front.first": np.array([0], dtype=np.int64),
        "front.two": np.array([2], dtype=np.int64),
        "front.side": np.array([side, side], dtype=np.int64),
        "front.half": np.array(0.5, dtype=np.float32),
        "front.rows": np.array([1, 2], dtype=np.int64),
        "front.white": np.array(255, dtype=np.float32),
        "front.mean": np.array(preprocess.mean, dtype=np.float32).reshape(1, 3, 1, 1),
        "front.std": np.array(preprocess.std, dtype=np.float32).reshape(1, 3, 1, 1),
    }
    shape = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["height", "width", 3])
    result = helper.make_tensor_value_info(
        IMAGE_IO.input_name, TensorProto.FLOAT, [1, 3, side, side]
    )
    nodes = [
        helper.make_node(*operator, **attributes) for operator, attributes in _steps(preprocess)
    ]
    referenced = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "preprocessing",
        [shape],
        [result],
        [
            numpy_helper.from_array(value, name)
            for name, value in values.items()
            if name in referenced
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _steps(preprocess: Preprocess) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return operator, inputs, outputs and attributes of each node."""
    resize: dict[str, Any] = {"antialias": 1, "axes": [1, 2], "exclude_outside": 1}
    resize.update(_MODES[preprocess.interpolation])
    squash = preprocess.resize_mode == "squash"
    fit: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        (("Shape", [INPUT], ["front.shape"]), {}),
        (("Slice", ["front.shape", "front.first", "front.two"], ["front.edges"]), {}),
        # Integer division, side * long // short, as in the runtime's preprocessing.
        (("ReduceMin", ["front.edges"], ["front.short"]), {"keepdims": 1}),
        (("Mul", ["front.edges", "front.side"], ["front.grown"]), {}),
        (("Div", ["front.grown", "front.short"], ["front.sizes"]), {}),
    ]
    sizes = "front.side" if squash else "front.sizes"
    crop: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        (("Sub", ["front.sizes", "front.side"], ["front.margin"]), {}),
        (("Cast", ["front.margin"], ["front.margin_f"]), {"to": 1}),
        (("Mul", ["front.margin_f", "front.half"], ["front.middle"]), {}),
        (("Round", ["front.middle"], ["front.even"]), {}),  # halves to even, as in the runtime
        (("Cast", ["front.even"], ["front.start"]), {"to": 7}),
        (("Add", ["front.start", "front.side"], ["front.end"]), {}),
        (("Slice", ["front.fit", "front.start", "front.end", "front.rows"], ["front.crop"]), {}),
    ]
    cropped = "front.fit" if squash else "front.crop"
    return [
        *([] if squash else fit),
        (("Unsqueeze", [INPUT, "front.first"], ["front.batch"]), {}),
        (("Resize", ["front.batch", "", "", sizes], ["front.fit"]), resize),
        *([] if squash else crop),
        (("Cast", [cropped], ["front.float"]), {"to": 1}),
        (("Transpose", ["front.float"], ["front.planes"]), {"perm": [0, 3, 1, 2]}),
        (("Div", ["front.planes", "front.white"], ["front.unit"]), {}),
        (("Sub", ["front.unit", "front.mean"], ["front.centred"]), {}),
        (("Div", ["front.centred", "front.std"], [IMAGE_IO.input_name]), {}),
    ]


def prepend_graph(preprocessing: ModelProto, tower: ModelProto) -> ModelProto:
    """Return one graph of preprocessing and tower; the tower's outputs keep their names."""
    from onnx import compose, helper

    tower = compose.add_prefix(tower, _PREFIX, rename_outputs=False)
    preprocessing = compose.add_prefix(
        preprocessing, _PREFIX, rename_nodes=False, rename_edges=False, rename_inputs=False,
        rename_initializers=False, rename_outputs=True,
    )  # fmt: skip
    for value in tower.graph.output:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = helper.make_graph(
        [*preprocessing.graph.node, *tower.graph.node],
        "image_tower",
        list(preprocessing.graph.input),
        list(tower.graph.output),
        [*preprocessing.graph.initializer, *tower.graph.initializer],
    )
    return helper.make_model(
        graph, opset_imports=list(tower.opset_import), ir_version=tower.ir_version
    )


def _images() -> list[Pixels]:
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in _SIZES]
    return [*(np.asarray(image) for image in golden_images()), *noise]


def _pixel_difference(preprocessing: ModelProto, preprocess: Preprocess) -> tuple[int, float]:
    """Return the largest difference from Pillow, of 255 levels, and the share of changed values."""
    import onnxruntime as ort

    session = ort.InferenceSession(
        preprocessing.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    std, mean = (np.array(v)[:, None, None] for v in (preprocess.std, preprocess.mean))
    differences = []
    for image in _images():
        pixel_values = session.run(None, {INPUT: image})[0][0]
        levels = np.rint((pixel_values * std + mean) * 255).astype(np.int64).transpose(1, 2, 0)
        differences.append(np.abs(levels - preprocess.pixels(image)).ravel())
    difference = np.concatenate(differences)
    return int(difference.max()), float((difference > 0).mean())


def _min_cosine(path: Path, tower: Path, preprocess: Preprocess) -> float:
    import onnxruntime as ort

    from tinyclip_edge.runtime.session import session_options

    options = session_options()
    pixel_tower, image_tower = (
        ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for file in (path, tower)
    )
    cosines = []
    for image in _images():
        embedding = pixel_tower.run(None, {INPUT: image})[0]
        expected = image_tower.run(None, {IMAGE_IO.input_name: preprocess(image)[None]})[0]
        cosines.append(float((embedding * expected).sum()))
    return min(cosines)
