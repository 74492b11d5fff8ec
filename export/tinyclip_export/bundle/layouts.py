"""Copies of a bundle's towers with the folders and inputs that another application expects.

Immich: what its machine-learning service reads (``OpenClipVisualEncoder`` and
``OpenClipTextualEncoder`` of immich_ml): folders ``visual`` and ``textual`` with a ``model.onnx``
each, inputs ``image`` and ``text``, ids as int32 padded to the context length.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinyclip_edge.errors import BundleError, ConfigError, did_you_mean
from tinyclip_edge.json_text import read_json_table
from tinyclip_edge.models.json_file import write_json
from tinyclip_edge.precisions import replay_cosine
from tinyclip_edge.runtime.vectors import unit
from tinyclip_export.layout import TEXT_IO
from tinyclip_export.verification.embeddings import TowerFiles, pixel_rows, token_rows
from tinyclip_export.verification.failures import ValuesError
from tinyclip_export.verification.golden import TEXTS, golden_images

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip

ModelProto: TypeAlias = Any  # onnx.ModelProto, which has no types

FOLDER = "layouts"


def check_layouts(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names; raise ConfigError for one that is not in the table."""
    for name in names:
        if name not in LAYOUTS:
            raise ConfigError(f"no layout {name!r}{did_you_mean(name, LAYOUTS)}")
    return tuple(dict.fromkeys(names))


def write_layouts(
    clip: LoadedClip, folder: Path, files: TowerFiles, names: Sequence[str], *, end: int
) -> dict[str, Any]:
    """Write and verify each layout of a bundle's precision; return the manifest's entry.

    ``end`` is the id of the end of text. Raises ConfigError for a model that the application cannot
    run, ValuesError when the layout's embeddings differ from the towers'.
    """
    return {name: LAYOUTS[name](clip, folder, files, end) for name in names}


def _write_immich(clip: LoadedClip, folder: Path, files: TowerFiles, end: int) -> dict[str, Any]:
    settings = _preprocessing(clip)
    if files.form.batch not in (None, 1):
        raise ConfigError(
            "layout immich: immich encodes one input at a time; use --static-batch 1, or omit it"
        )
    pad_token = read_json_table(folder / "tokenizer_config.json", BundleError).get("pad_token")
    if not isinstance(pad_token, str):
        raise ConfigError(
            "layout immich: immich pads texts with the tokenizer's pad_token, but this tokenizer "
            "has none; omit --layout"
        )
    target = folder / FOLDER / "immich"
    visual, textual = target / "visual", target / "textual"
    for part in (visual, textual):
        part.mkdir(parents=True)
    write_json(
        target / "config.json",
        {
            "embed_dim": clip.embedding_dim,
            "vision_cfg": {"image_size": clip.image_size},
            "text_cfg": {"context_length": clip.context_length},
        },
    )
    write_json(visual / "preprocess_cfg.json", settings)
    write_json(textual / "tokenizer_config.json", {"pad_token": pad_token})
    shutil.copyfile(folder / "tokenizer.json", textual / "tokenizer.json")
    (visual / "model.onnx").write_bytes(_image_graph(files.image, clip.image_size))
    (textual / "model.onnx").write_bytes(_text_graph(files, clip.context_length, end))
    pixels = [row[None] for row in pixel_rows(clip, golden_images())]
    ids = token_rows(clip.tokenizer(list(TEXTS)).numpy(), end, files.form)
    padded = _padded_ids(textual, pad_token, clip.context_length)
    theirs = [TowerFiles(files.precision, part / "model.onnx", part / "model.onnx",
                         files.precise_int8) for part in (visual, textual)]  # fmt: skip
    cosines = {
        "image": _cosine((files, pixels), (theirs[0], pixels), "image"),
        "text": _cosine((files, ids), (theirs[1], padded), "text"),
    }
    least = replay_cosine(files.precision)
    for tower, cosine in cosines.items():
        if not cosine >= least:
            raise ValuesError(f"layout immich: {tower} cosine {cosine:.5f} is below {least}")
    return {
        "folder": target.relative_to(folder).as_posix(),
        "precision": files.precision,
        "cosine_min": {tower: round(cosine, 6) for tower, cosine in cosines.items()},
    }


# Name of ``--layout`` -> function that writes it and returns its manifest entry.
LAYOUTS: Mapping[str, Callable[[LoadedClip, Path, TowerFiles, int], dict[str, Any]]] = {
    "immich": _write_immich
}


def _preprocessing(clip: LoadedClip) -> dict[str, Any]:
    """Return open_clip's settings; raise ConfigError for those that immich does not support."""
    preprocess = clip.config["preprocess_cfg"]
    mode = preprocess.get("resize_mode") or "shortest"
    if mode not in ("shortest", "squash"):
        raise ConfigError(f"layout immich: immich has no resize_mode {mode!r}; omit --layout")
    return {
        "size": clip.image_size,
        "mode": "RGB",
        "mean": list(preprocess["mean"]),
        "std": list(preprocess["std"]),
        "interpolation": preprocess.get("interpolation") or "bicubic",
        "resize_mode": mode,
    }


def _image_graph(path: Path, side: int) -> bytes:
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(str(path))
    _rename_input(
        model, helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, side, side])
    )
    _fix_batch(model)
    content: bytes = model.SerializeToString()
    return content


def _text_graph(files: TowerFiles, length: int, end: int) -> bytes:
    """Return the text tower with input ``text`` int32 ``[1, length]``, whose padding is cut off.

    The tower then gets the same ids as elsewhere: padding would change the scales of dynamic int8.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(files.text))
    graph, inner = model.graph, TEXT_IO.input_name
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("text", TensorProto.INT32, [1, length]))
    if files.form.padded:
        kind = TensorProto.DataType.Value(files.form.ids.upper())
        nodes = [helper.make_node("Cast", ["text"], [inner], to=kind)]
    else:
        constants = {
            "cut.end": np.array(end, np.int64),
            "cut.zero": np.array([0], np.int64),
            "cut.one": np.array([1], np.int64),
        }
        graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in constants.items()
        )
        nodes = [
            helper.make_node("Cast", ["text"], ["cut.ids"], to=TensorProto.INT64),
            helper.make_node("Equal", ["cut.ids", "cut.end"], ["cut.is_end"]),
            helper.make_node("Cast", ["cut.is_end"], ["cut.marks"], to=TensorProto.INT64),
            helper.make_node("ArgMax", ["cut.marks"], ["cut.last"], axis=1, keepdims=0),
            helper.make_node("Add", ["cut.last", "cut.one"], ["cut.length"]),
            helper.make_node("Slice", ["cut.ids", "cut.zero", "cut.length", "cut.one"], [inner]),
        ]
    for position, node in enumerate(nodes):
        graph.node.insert(position, node)
    _fix_batch(model)
    content: bytes = model.SerializeToString()
    return content


def _rename_input(model: ModelProto, value: Any) -> None:  # noqa: ANN401 - onnx.ValueInfoProto
    """Replace the graph's only input by ``value``."""
    graph = model.graph
    before = graph.input[0].name
    del graph.input[:]
    graph.input.append(value)
    for node in graph.node:
        node.input[:] = [value.name if name == before else name for name in node.input]


def _fix_batch(model: ModelProto) -> None:
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[0].dim_value = 1


def _cosine(
    ours: tuple[TowerFiles, Sequence[Any]], theirs: tuple[TowerFiles, Sequence[Any]], tower: str
) -> float:
    """Return the lowest cosine between a tower and its layout's graph, each with its inputs."""
    features = []
    for files, rows in (ours, theirs):
        session = files.open(tower)
        name = session.get_inputs()[0].name
        features.append([unit(session.run(None, {name: row})[0])[0] for row in rows])
    return min(float(one @ other) for one, other in zip(*features, strict=True))


def _padded_ids(folder: Path, pad_token: str, length: int) -> list[Any]:
    """Return the golden texts' ids as immich makes them: int32 ``[1, length]``."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pad_id = tokenizer.token_to_id(pad_token)
    tokenizer.enable_padding(length=length, pad_token=pad_token, pad_id=pad_id)
    tokenizer.enable_truncation(max_length=length)
    return [np.array([tokenizer.encode(text).ids], np.int32) for text in TEXTS]
