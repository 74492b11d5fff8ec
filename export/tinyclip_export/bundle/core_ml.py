"""Towers as Core ML packages, converted from torch by coremltools, for Apple's systems only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyclip_edge.errors import ModelError, first_line, missing_extra
from tinyclip_edge.models.quiet import quiet
from tinyclip_export.layout import TOWER_IO

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from tinyclip_export.export_job import ExportJob, FloatTowers

MODEL = "Data/com.apple.CoreML/model.mlmodel"
TRACES = "executorch_debug_handle_mapping.json"  # of torch's graph, which nothing reads


def write_packages(job: ExportJob, towers: FloatTowers) -> dict[str, Any]:
    """Write an ``.mlpackage`` of each tower in float16; return the manifest's entry.

    Its inputs, outputs and shapes are checked, but not its values: Core ML computes on macOS and
    iOS only. Raises MissingExtraError without coremltools, ModelError if it cannot convert a tower.
    """
    from importlib.util import find_spec

    if find_spec("coremltools") is None:
        raise missing_extra("--native for coreml needs", "coremltools", "coreml")
    import coremltools
    import torch

    size, length = job.clip.image_size, job.clip.context_length
    batch = towers.form.batch or 1
    examples = {
        "image": torch.zeros(batch, 3, size, size),
        "text": torch.ones(batch, length, dtype=torch.int32),
    }
    folder = job.folder / "native"
    folder.mkdir()
    files = {}
    for tower, io in TOWER_IO.items():
        path = folder / f"{io.stem}.mlpackage"
        _convert(
            towers.writer.module(tower), examples[tower], path, (io.input_name, io.output_name)
        )
        files[tower] = path.relative_to(job.folder).as_posix()
    return {"format": "Core ML package", "version": coremltools.__version__, "files": files}


def _convert(module: nn.Module, example: Tensor, path: Path, names: tuple[str, str]) -> None:
    with quiet():
        import coremltools as ct
        import torch

        _accept_aliases()
        try:
            program = torch.export.export(module.eval(), (example,)).run_decompositions({})
            model = ct.convert(
                program,
                outputs=[ct.TensorType(name=names[1])],
                minimum_deployment_target=ct.target.iOS17,
                compute_precision=ct.precision.FLOAT16,
                convert_to="mlprogram",
                skip_model_load=True,
            )
        # Unknown operators raise many kinds of exceptions.
        except Exception as error:
            line = first_line(error)
            raise ModelError(
                f"coremltools {ct.__version__} cannot convert {path.stem}: {line}"
            ) from error
        model.save(str(path))
    (path / TRACES).unlink(missing_ok=True)
    (path / MODEL).chmod(0o644)  # coremltools makes it readable only by its owner
    interface = model.get_spec().description
    ports = [each.name for each in (*interface.input, *interface.output)]
    shape = list(interface.input[0].type.multiArrayType.shape)
    if ports != list(names) or shape != list(example.shape):
        raise ModelError(f"{path.name} has {ports} of {shape}, not {names} of {example.shape}")


def _accept_aliases() -> None:
    """Teach coremltools torch's ``alias``, which returns its input."""
    from coremltools.converters.mil.frontend.torch.torch_op_registry import (
        _TORCH_OPS_REGISTRY,
        register_torch_op,
    )

    if "alias" in _TORCH_OPS_REGISTRY:
        return

    def alias(context: Any, node: Any) -> None:  # noqa: ANN401
        context.add(context[node.inputs[0]], node.name)

    register_torch_op(alias)
