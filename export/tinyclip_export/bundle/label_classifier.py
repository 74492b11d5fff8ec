"""A zero-shot classifier in one file: image tower and class matrix, without text tower."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinyclip_edge.errors import BundleError, DataError
from tinyclip_edge.json_text import read_json_table
from tinyclip_edge.precisions import PRECISIONS
from tinyclip_edge.runtime.classifier import LABELS_FILE, METADATA, METADATA_VERSION, OUTPUT
from tinyclip_edge.runtime.prompts import class_features, probabilities
from tinyclip_edge.runtime.protocol import Features
from tinyclip_export.layout import IMAGE_IO
from tinyclip_export.verification.embeddings import pixel_rows
from tinyclip_export.verification.failures import ValuesError
from tinyclip_export.verification.golden import golden_images

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip

ModelProto: TypeAlias = Any  # onnx.ModelProto, which has no types

TOLERANCE = 1e-5  # for probabilities


def classifier_path(precision: str) -> str:
    """Return the file's path inside a bundle."""
    return f"onnx/classifier{PRECISIONS[precision].suffix}.onnx"


def check_labels(labels: Sequence[str]) -> None:
    """Raise DataError for a repeated label, whose columns would share its probability."""
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if repeated:
        raise DataError(f"label {repeated[0]!r} appears more than once; remove the repeats")


def write_classifiers(
    clip: LoadedClip,
    folder: Path,
    precise: Mapping[str, bool],
    *,
    labels: Sequence[str],
    templates: Sequence[str],
) -> dict[str, Any]:
    """Write one file per precision and ``labels.json``; return the manifest's entry.

    The files map ``pixel_values [B, 3, S, S]`` to ``probabilities [B, C]``; the class matrix is
    PyTorch's in all precisions. `precise` maps precisions to whether x86 without VNNI must compute
    in u8 x u8. Raises DataError for unusable labels or templates, ValuesError when a file's output
    differs from that of image tower and class matrix.
    """
    import onnx

    from tinyclip_edge.models import TorchEmbedder

    check_labels(labels)
    classes = class_features(TorchEmbedder(clip), labels, templates)
    config = read_json_table(folder / "preprocessor_config.json", BundleError)
    (folder / LABELS_FILE).write_text(
        json.dumps({"labels": labels, "templates": templates}, indent=2, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
    differences = {}
    for precision, exact in precise.items():
        model = onnx.load(str(folder / IMAGE_IO.path(precision)))
        append_classes(model, classes * np.float32(clip.logit_scale), clip.logit_bias)
        facts = {
            "version": METADATA_VERSION,
            "labels": list(labels),
            "templates": list(templates),
            "preprocessor": config,
            "precision": precision,
            "precise_int8": exact,
        }
        entry = model.metadata_props.add()
        entry.key, entry.value = METADATA, json.dumps(facts, ensure_ascii=False)
        path = folder / classifier_path(precision)
        path.write_bytes(model.SerializeToString())
        differences[precision] = _difference(clip, folder, precision, classes)
    return {
        "files": {precision: classifier_path(precision) for precision in precise},
        "labels": len(labels),
        "templates": list(templates),
        "max_difference": differences,
    }


def append_classes(model: ModelProto, columns: Features, bias: float | None) -> None:
    """Append probabilities to an image tower: the softmax over its products with ``[C, D]``.

    For a model with a logit `bias`, the labels have independent sigmoids.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    weights = np.ascontiguousarray(columns.T, dtype=np.float32)
    graph.initializer.append(numpy_helper.from_array(weights, "classes.columns"))
    graph.node.append(
        helper.make_node("MatMul", [IMAGE_IO.output_name, "classes.columns"], ["classes.logits"])
    )
    if bias is None:
        graph.node.append(helper.make_node("Softmax", ["classes.logits"], [OUTPUT], axis=-1))
    else:
        graph.initializer.append(numpy_helper.from_array(np.float32(bias), "classes.bias"))
        graph.node.extend(
            [
                helper.make_node("Add", ["classes.logits", "classes.bias"], ["classes.sum"]),
                helper.make_node("Sigmoid", ["classes.sum"], [OUTPUT]),
            ]
        )
    batch = graph.output[0].type.tensor_type.shape.dim[0]
    first = batch.dim_param or batch.dim_value
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [first, weights.shape[1]])
    )


def _difference(clip: LoadedClip, folder: Path, precision: str, classes: Features) -> float:
    """Return the largest difference from probabilities computed with the tower and `classes`."""
    import onnxruntime as ort

    pixels = pixel_rows(clip, golden_images())
    tower, classifier = (
        ort.InferenceSession(str(folder / path), providers=["CPUExecutionProvider"])
        for path in (IMAGE_IO.path(precision), classifier_path(precision))
    )
    largest = 0.0
    rows = tower.get_inputs()[0].shape[0]
    for row in pixels:
        feed = {
            IMAGE_IO.input_name: np.repeat(row[None], rows if isinstance(rows, int) else 1, axis=0)
        }
        logits = clip.logit_scale * (tower.run(None, feed)[0] @ classes.T)[0]
        difference = np.abs(
            probabilities(logits, clip.logit_bias) - classifier.run(None, feed)[0][0]
        )
        largest = max(largest, float(difference.max()))
    if not largest <= TOLERANCE:
        raise ValuesError(
            f"{precision} classifier: a probability differs by {largest:.2g} from the image "
            f"tower's, {TOLERANCE:g} allowed"
        )
    return largest
