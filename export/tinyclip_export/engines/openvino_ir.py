"""OpenVINO's IR, made from the ONNX files: float16 weights, or int8 by NNCF."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from tinyclip_export.engines.writer import Encode, EngineTower

CALIBRATION_INPUTS = 128


class OpenVino:
    """``.xml`` and ``.bin``; inputs keep their names and free axes."""

    def version(self) -> str:
        """Return OpenVINO's version."""
        import openvino

        return str(openvino.__version__).split("-")[0]

    def write(self, tower: EngineTower, targets: Mapping[str, Path]) -> None:
        """Write each precision."""
        import openvino

        for precision, path in targets.items():
            model = openvino.convert_model(tower.source)
            if precision == "int8":
                model = _quantized(model, tower)
            openvino.save_model(model, path, compress_to_fp16=precision == "fp16")

    def open(self, path: Path, threads: int) -> Encode:
        """Compile for the CPU in float32, even if OpenVINO would choose bfloat16 by default.

        What is int8 in the file stays int8.
        """
        import openvino

        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        model = openvino.Core().compile_model(path, "CPU", options)
        return lambda batch: model(batch)[0].copy()


def _quantized(model: Any, tower: EngineTower) -> Any:  # noqa: ANN401 - openvino.Model
    with redirect_stdout(StringIO()):  # bars
        import nncf
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            OverflowFix,
        )

        nncf.set_log_level(logging.ERROR)
        # Weights of 7 bits, since x86 without VNNI adds two products in 16 bits. NNCF's default has
        # 8 bits: the starter teacher's pictures then had a mean cosine of 0.963 there, not 0.998.
        no_overflow = AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE)
        inputs = list(tower.calibration())[:CALIBRATION_INPUTS]
        return nncf.quantize(
            model,
            nncf.Dataset(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(inputs),
            advanced_parameters=no_overflow,
        )
