"""The forms that fewer_bits.py compares, and the compensation of channels (QwT-v2)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 32


class Towers:
    """The float files of a model, and its modules."""

    def __init__(self, clip: Any, folder: Path) -> None:  # noqa: ANN401
        """Write both files to `folder`."""
        from tinyclip_export.onnx_passes import exporter
        from tinyclip_export.towers.factory import image_tower, input_form, text_tower

        image = image_tower(clip.model, plain=False)
        text = text_tower(clip.model, clip.tokenizer(["a"])[0], plain=False)
        form = input_form(clip, text, None, ids="int64", plain=False)
        self.modules = {"image": image, "text": text}
        self.sources = {tower: folder / f"{tower}.onnx" for tower in self.modules}
        exporter.export_image_tower(
            image, self.sources["image"], image_size=clip.image_size, form=form
        )
        exporter.export_text_tower(text, self.sources["text"], form=form)


def ours(
    rounding: str, table: str, *, table_rounding: str = ""
) -> Callable[[Towers, str, Any, Path], None]:
    """Return a form of this package's q4; `table_rounding` is the token table's, if it differs."""

    def write(towers: Towers, tower: str, calibration: Any, target: Path) -> None:  # noqa: ANN401
        from dataclasses import replace

        from tinyclip_export.quantization.recipe import QuantizeJob
        from tinyclip_export.quantization.table_sensitivity import TEXTS, table_sensitivity
        from tinyclip_export.quantization.weight_only import WeightOnlyRecipe

        recipe = WeightOnlyRecipe(token_table=table, rounding=rounding)
        job = QuantizeJob(tower, towers.sources[tower], target)
        if recipe.compensates:
            sensitivity = None
            if tower == "text" and table_rounding != "nearest":
                texts = calibration.select(np.arange(min(len(calibration.ids), TEXTS)))
                batches = (batch for _, batch in texts.batches(tower))
                sensitivity = table_sensitivity(towers.modules[tower], batches)
            feeds = lambda: calibration.feeds(tower)  # noqa: E731
            job = replace(job, rounded=recipe.round_weights(job.source, feeds, sensitivity))
        recipe.write(job)

    return write


def onnxruntimes(algorithm: str) -> Callable[[Towers, str, Any, Path], None]:
    """Return a form by an algorithm of onnxruntime's MatMulNBitsQuantizer, with our 4-bit table.

    HQQ and k_quant need no calibration.
    """

    def write(towers: Towers, tower: str, calibration: Any, target: Path) -> None:  # noqa: ANN401
        import onnx
        from onnxruntime.quantization import matmul_nbits_quantizer as library

        from tinyclip_export.onnx_passes.exporter import strip_traces
        from tinyclip_export.quantization.token_embedding import quantize_table

        model = onnx.load(str(towers.sources[tower]))
        if tower == "text":
            quantize_table(model, 4)
        if algorithm.startswith("gptq"):
            config: Any = library.GPTQWeightOnlyQuantConfig(
                calibration_data_reader=list(calibration.feeds(tower))
            )
        else:
            config = library.KQuantWeightOnlyQuantConfig()
        quantizer = library.MatMulNBitsQuantizer(
            model,
            block_size=BLOCK,
            is_symmetric=algorithm == "gptq symmetric",
            accuracy_level=4,
            algo_config=config,
        )
        quantizer.process()
        strip_traces(quantizer.model.model)
        onnx.save_model(quantizer.model.model, str(target))

    return write


def static(towers: Towers, tower: str, calibration: Any, target: Path) -> None:  # noqa: ANN401
    """Write static int8."""
    from tinyclip_export.quantization.recipe import QuantizeJob
    from tinyclip_export.quantization.static_int8 import StaticRecipe

    job = QuantizeJob(tower, towers.sources[tower], target, feeds=lambda: calibration.feeds(tower))
    StaticRecipe().write(job)


FORMS: dict[str, Callable[[Towers, str, Any, Path], None]] = {
    "q4 nearest": ours("nearest", "4 bit"),
    "q4 nearest, 8-bit table": ours("nearest", "8 bit"),
    "q4 by onnxruntime's GPTQ, symmetric": onnxruntimes("gptq symmetric"),
    "q4 by onnxruntime's GPTQ, asymmetric": onnxruntimes("gptq asymmetric"),
    "q4 by onnxruntime's k_quant": onnxruntimes("k_quant"),
    "q4 gptq, nearest table": ours("gptq", "4 bit", table_rounding="nearest"),
    "q4 gptq": ours("gptq", "4 bit"),
    "q4 gptq, 8-bit table": ours("gptq", "8 bit"),
    "q4 gptq, 3-bit table": ours("gptq", "3 bit"),
    "q4 nearest, 3-bit table": ours("nearest", "3 bit"),
    "static int8": static,
}
# Measured once: forms without calibration, and those known to be worse.
ONCE = (
    "q4 nearest",
    "q4 nearest, 8-bit table",
    "q4 nearest, 3-bit table",
    "q4 by onnxruntime's k_quant",
    "q4 by onnxruntime's GPTQ, symmetric",
    "q4 by onnxruntime's GPTQ, asymmetric",
)


def channel_affine(given: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each channel's scale and offset by least squares, for values ``[N, C]``.

    A channel that does not vary has the scale 1.
    """
    centre, aim = given.mean(axis=0), wanted.mean(axis=0)
    spread = np.square(given - centre).sum(axis=0)
    joint = ((given - centre) * (wanted - aim)).sum(axis=0)
    scale = np.divide(joint, spread, out=np.ones_like(spread), where=spread > 0.0)
    return scale, aim - scale * centre


def apply_channel_compensation(source: Path, target: Path, calibration: Any, tower: str) -> None:  # noqa: ANN401
    """Fit each biased product of a quantized file to the float file's, in the order of the graph.

    The result is absorbed into weight scales and biases, so the graph is unchanged.
    """
    import onnx
    from onnx import numpy_helper

    from tinyclip_export.onnx_passes.graph_utils import (
        constants,
        consumers,
        following_bias,
        producers,
    )

    plain, model = onnx.load(str(source)), onnx.load(str(target))
    tensors, readers = constants(plain.graph), consumers(plain.graph)
    biased = [following_bias(node, tensors, readers) for node in plain.graph.node]
    for add, place in filter(None, biased):
        name, bias = add.output[0], add.input[place]
        given, wanted = (_values(each, name, calibration, tower) for each in (model, plain))
        scale, offset = channel_affine(given, wanted)
        made, stored = producers(model.graph), constants(model.graph)
        product = made[made[name].input[1 - place]]
        if product.op_type == "MatMulNBits":
            scales, factor = product.input[2], scale[:, None]
        else:
            scales, factor = made[product.input[1]].input[1], scale
        new = numpy_helper.to_array(stored[scales]) * factor
        stored[scales].CopyFrom(numpy_helper.from_array(new.astype(np.float32), scales))
        shift = scale * numpy_helper.to_array(tensors[bias]) + offset
        stored[bias].CopyFrom(numpy_helper.from_array(shift.astype(np.float32), bias))
    onnx.save_model(model, str(target))


def _values(model: Any, name: str, calibration: Any, tower: str) -> np.ndarray:  # noqa: ANN401
    import onnxruntime as ort

    from tinyclip_edge.runtime.session import session_options
    from tinyclip_export.quantization.input_moments import cut_at

    content = cut_at(model, [name]).SerializeToString()
    session = ort.InferenceSession(content, session_options(threads=1))
    rows = [session.run([name], feed)[0] for feed in calibration.feeds(tower)]
    return np.concatenate([each.reshape(-1, each.shape[-1]) for each in rows]).astype(np.float64)
