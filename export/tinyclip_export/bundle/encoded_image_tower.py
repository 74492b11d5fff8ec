"""Image towers that take the bytes of a JPEG or PNG: DecodeImage of onnxruntime-extensions.

The graph decodes, resizes, crops and normalises. It ignores EXIF rotation and transparency: a
transparent pixel has the colour that is stored for it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tinyclip_edge.precisions import PRECISIONS
from tinyclip_edge.runtime.protocol import Features
from tinyclip_export.bundle.extension_operators import (
    PICTURE_DOMAIN,
    Session,
    open_with_extension,
)
from tinyclip_export.bundle.uint8_image_tower import (
    INPUT,
    MIN_COSINE,
    Pixels,
    pixel_tower_path,
    preprocessing_graph,
    runtime_preprocess,
)
from tinyclip_export.verification.embeddings import TowerFiles
from tinyclip_export.verification.failures import ValuesError
from tinyclip_export.verification.golden import golden_images

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip
    from tinyclip_edge.runtime.preprocess import Preprocess

STEM = "encoded_vision_model"  # a prefix, since a suffix of IMAGE_IO.stem names a precision
_DECODED = "decode.rgb"
_JPEG, _END, _PNG = (0xFF, 0xD8, 0xFF), (0xFF, 0xD9), tuple(b"\x89PNG\r\n\x1a\n")


def encoded_tower_path(precision: str) -> str:
    """Return the file's path inside a bundle."""
    return f"onnx/{STEM}{PRECISIONS[precision].suffix}.onnx"


def write_encoded_towers(
    clip: LoadedClip, folder: Path, files: Sequence[TowerFiles], expected: Mapping[str, Features]
) -> dict[str, Any]:
    """Write one file per precision, ``image`` uint8 ``[bytes]`` to ``image_embeds [1, D]``.

    The towers for decoded pictures must already be in `folder`. `expected` has, by precision, the
    embeddings ``[N, D]`` of the encoded pictures from the bundle's image tower. Returns the
    manifest's figures, with the differences from Pillow. Raises ValuesError when an embedding
    differs too much.
    """
    import onnx

    preprocess = runtime_preprocess(clip)
    pixels = _with_decoder(preprocessing_graph(preprocess))
    figures: dict[str, Any] = {
        "input": "image uint8 [bytes], a whole upright file: JPEG in colour, or PNG",
        "needs": f"onnxruntime-extensions (operators of {PICTURE_DOMAIN})",
        "files": {},
        "pixel_levels_max": _levels(open_with_extension(pixels), preprocess),
        "cosine_min": {},
    }
    for each in files:
        target = folder / encoded_tower_path(each.precision)
        target.write_bytes(_with_decoder(onnx.load(str(folder / pixel_tower_path(each.precision)))))
        cosine = _min_cosine(target, each, expected[each.precision])
        if not cosine >= MIN_COSINE:
            raise ValuesError(
                f"{each.precision} tower of encoded pictures: cosine {cosine:.5f} to embeddings by "
                f"Pillow is below {MIN_COSINE}"
            )
        figures["files"][each.precision] = encoded_tower_path(each.precision)
        figures["cosine_min"][each.precision] = round(cosine, 6)
    return figures


def encoded_pictures() -> dict[str, bytes]:
    """Return golden pictures as files: JPEG with full and halved chroma, PNG in RGB and grey."""
    first, second, third, fourth = golden_images()
    smooth = third.resize((320, 240), Image.Resampling.BICUBIC)
    return {
        "0.jpg": _encoded(first, "JPEG", quality=95, subsampling=0),
        "1.png": _encoded(second, "PNG"),
        "2.jpg": _encoded(smooth, "JPEG", quality=90, subsampling=2),
        "3.png": _encoded(fourth.convert("L"), "PNG"),
    }


def _encoded(image: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _with_decoder(model: Any) -> bytes:  # noqa: ANN401 - onnx.ModelProto, which has no types
    """Return the decoder followed by a graph that takes decoded pictures, serialized."""
    from onnx import TensorProto, helper

    graph = model.graph
    nodes, values = _decoder()
    for node in graph.node:
        node.input[:] = [_DECODED if name == INPUT else name for name in node.input]
    inner = list(graph.node)
    del graph.input[:], graph.node[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["bytes"]))
    graph.node.extend([*nodes, *inner])
    graph.initializer.extend(values)
    model.opset_import.append(helper.make_opsetid(PICTURE_DOMAIN, 1))
    content: bytes = model.SerializeToString()
    return content


def _decoder() -> tuple[list[Any], list[Any]]:
    """Return nodes and initializers from bytes to ``[H, W, 3]`` in RGB."""
    from onnx import TensorProto, helper, numpy_helper

    red = Image.new("RGB", (1, 1), (255, 0, 0))
    constants = {
        "decode.red": np.frombuffer(_encoded(red, "PNG"), np.uint8),
        "decode.rgb_order": np.array([0, 1, 2], np.int64),
        "decode.bgr_order": np.array([2, 1, 0], np.int64),
        "decode.first": np.array([0, 0, 0], np.int64),
        "decode.shape1": np.array([1, 1, 1], np.int64),
    }
    checks, check_values = _whole_file()
    nodes = [
        *checks,
        # Releases differ in the order of channels; decoding a red pixel tells which one it is.
        helper.make_node("DecodeImage", ["decode.red"], ["decode.pixel"], domain=PICTURE_DOMAIN),
        helper.make_node("Slice", ["decode.pixel", "decode.first", "decode.shape1"],
                         ["decode.channel"]),
        helper.make_node("Reshape", ["decode.channel", "decode.one"], ["decode.level"]),
        helper.make_node("Cast", ["decode.level"], ["decode.is_rgb"], to=TensorProto.BOOL),
        helper.make_node("Where", ["decode.is_rgb", "decode.rgb_order", "decode.bgr_order"],
                         ["decode.order"]),
        helper.make_node("DecodeImage", ["decode.file"], ["decode.image"], domain=PICTURE_DOMAIN),
        # The Reshape fails for JPEGs of one channel, which release 0.15 garbles, and of four.
        helper.make_node("Shape", ["decode.image"], ["decode.edges"], start=0, end=2),
        helper.make_node("Concat", ["decode.edges", "decode.3"], ["decode.shape"], axis=0),
        helper.make_node("Reshape", ["decode.image", "decode.shape"], ["decode.colours"]),
        helper.make_node("Gather", ["decode.colours", "decode.order"], [_DECODED], axis=2),
    ]  # fmt: skip
    values = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return nodes, [*values, *check_values]


def _whole_file() -> tuple[list[Any], list[Any]]:
    """Return nodes and initializers that empty a file unless it is a PNG or a complete JPEG.

    DecodeImage refuses an empty file; others crash the process, and a truncated JPEG hangs it.
    """
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "decode.zero": np.array([0], np.int64),
        "decode.one": np.array([1], np.int64),
        "decode.all": np.array([np.iinfo(np.int64).max], np.int64),
        "decode.-2": np.array([-2], np.int64),
        "decode.3": np.array([3], np.int64),
        "decode.8": np.array([8], np.int64),
        "decode.zeros": np.zeros(8, np.int32),
    }
    nodes = [
        # Zeros are added before and after, so that the shortest file is long enough for a marker.
        helper.make_node("Cast", [INPUT], ["decode.bytes"], to=TensorProto.INT32),
        helper.make_node("Concat", ["decode.bytes", "decode.zeros"], ["decode.front"], axis=0),
        helper.make_node("Concat", ["decode.zeros", "decode.bytes"], ["decode.back"], axis=0),
    ]
    for name, mark, place in (
        ("jpeg", _JPEG, ["decode.front", "decode.zero", "decode.3"]),
        ("png", _PNG, ["decode.front", "decode.zero", "decode.8"]),
        ("end", _END, ["decode.back", "decode.-2", "decode.all"]),
    ):
        key = f"decode.{name}"
        constants[f"{key}.mark"] = np.array(mark, np.int32)
        nodes += [
            helper.make_node("Slice", place, [f"{key}.bytes"]),
            helper.make_node("Equal", [f"{key}.bytes", f"{key}.mark"], [f"{key}.equal"]),
            helper.make_node("Cast", [f"{key}.equal"], [f"{key}.bits"], to=TensorProto.INT64),
            helper.make_node("ReduceMin", [f"{key}.bits"], [f"{key}.is"], keepdims=1),
        ]
    nodes += [
        helper.make_node("Mul", ["decode.jpeg.is", "decode.end.is"], ["decode.whole"]),
        helper.make_node("Max", ["decode.whole", "decode.png.is"], ["decode.known"]),
        helper.make_node("Mul", ["decode.known", "decode.all"], ["decode.stop"]),
        helper.make_node("Slice", [INPUT, "decode.zero", "decode.stop"], ["decode.file"]),
    ]
    values = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return nodes, values


def _levels(session: Session, preprocess: Preprocess) -> int:
    """Return the largest difference of a pixel from Pillow's, of 255 levels."""
    std, mean = (np.array(v)[:, None, None] for v in (preprocess.std, preprocess.mean))
    largest = 0
    for content in encoded_pictures().values():
        pixels = session.run(None, {INPUT: np.frombuffer(content, np.uint8)})[0][0]
        levels = np.rint((pixels * std + mean) * 255).astype(np.int64).transpose(1, 2, 0)
        largest = max(largest, int(np.abs(levels - _by_pillow(content, preprocess)).max()))
    return largest


def _by_pillow(content: bytes, preprocess: Preprocess) -> Pixels:
    return preprocess.pixels(Image.open(io.BytesIO(content)))


def _min_cosine(path: Path, files: TowerFiles, expected: Features) -> float:
    encoded = open_with_extension(path.read_bytes(), precise_int8=files.precise_int8)
    rows = [
        encoded.run(None, {INPUT: np.frombuffer(content, np.uint8)})[0]
        for content in encoded_pictures().values()
    ]
    return float((np.concatenate(rows) * expected).sum(axis=1).min())
