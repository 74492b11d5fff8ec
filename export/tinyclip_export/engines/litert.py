"""LiteRT's .tflite files by litert-torch: float32, or int8 with activation ranges at run time."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path

from tinyclip_export.engines.writer import Encode, EngineTower


class LiteRt:
    """One signature with the names of the ONNX file; ids are int32."""

    def version(self) -> str:
        """Return the version of the runtime."""
        return version("ai-edge-litert")

    def write(self, tower: EngineTower, targets: Mapping[str, Path]) -> None:
        """Convert once, then quantize the result."""
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # bars and tables
            import litert_torch
            from ai_edge_quantizer import quantizer, recipe

            from tinyclip_export.engines.named_tower import NamedTower

            source = tower.scratch / f"{tower.output_name}.tflite"
            named = NamedTower(tower.module, tower.input_name, tower.output_name).eval()
            inputs = {tower.input_name: tower.example}
            litert_torch.convert(named, sample_kwargs=inputs).export(str(source))
            for precision, path in targets.items():
                if precision == "fp32":
                    path.write_bytes(source.read_bytes())
                    continue
                rounding = quantizer.Quantizer(str(source))
                rounding.load_quantization_recipe(recipe.dynamic_wi8_afp32())
                rounding.quantize().export_model(str(path))

    def open(self, path: Path, threads: int) -> Encode:
        """Load the file with XNNPACK, LiteRT's default on processors."""
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path), num_threads=threads)
        run = interpreter.get_signature_runner()
        ((input_name, details),) = run.get_input_details().items()
        (output_name,) = run.get_output_details()
        kind = details["dtype"]
        return lambda batch: run(**{input_name: batch.astype(kind)})[output_name]
