"""What shapes cost on this machine: int8 files with random weights, opened like a bundle's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinyclip_edge.config.preset import ExportPreset
from tinyclip_edge.errors import ModelError
from tinyclip_edge.inheritance.tower_kind import TowerName
from tinyclip_edge.models.student import create_student
from tinyclip_edge.tailoring.budget import Cost
from tinyclip_edge.tailoring.shapes import ImageShape, TeacherTower
from tinyclip_export.layout import ANY_INPUT, IMAGE_IO

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip
    from tinyclip_export.quantization.calibration import Calibration

FLOAT32 = 4  # bytes
NOISE = 2  # pictures
TEXT: tuple[TowerName, ...] = ("text",)  # the tower that students copy from their teacher


@dataclass(frozen=True, slots=True)
class Meter:
    """Exports towers into a temporary folder, times them, and adds ``beside`` MB to their size."""

    teacher: LoadedClip
    tower: TeacherTower
    scratch: Path
    beside: float  # MB of the label columns, or of the text tower

    def cost(self, shape: ImageShape) -> Cost:
        """Return the cost of a shape in int8. Raises ModelError, VerificationError."""
        from tinyclip_export.onnx_passes.exporter import export_image_tower
        from tinyclip_export.quantization.float_form import is_mainly_convolutions
        from tinyclip_export.quantization.registry import recipes_for
        from tinyclip_export.quantization.tower_writer import TowerWriter
        from tinyclip_export.towers.factory import image_tower

        student = create_student(
            {"vision_cfg": self.tower.settings(shape)}, self.teacher, frozen=TEXT
        )
        preset = ExportPreset()
        module = image_tower(student.model, plain=preset.operators == "plain")
        source, target = (self.scratch / f"{shape.name}{end}.onnx" for end in ("", "-int8"))
        export_image_tower(module, source, image_size=shape.image_size, form=ANY_INPUT)
        writer = TowerWriter(
            {"image": module},
            {"image": source},
            self.scratch,
            image_size=shape.image_size,
            form=ANY_INPUT,
            calibration=lambda: _calibration(student, self.scratch),
        )
        recipes = recipes_for("int8", preset, convolutional=is_mainly_convolutions(source))
        writer.write("image", recipes.image, target)
        mb = target.stat().st_size / 1e6
        cost = Cost(self.beside + mb, milliseconds(target, shape.image_size))
        for path in (source, target):
            path.unlink()
        return cost


@contextmanager
def meter(
    teacher: LoadedClip, tower: TeacherTower, labels: int, text_mb: float | None
) -> Iterator[Meter]:
    """Yield a meter of classifiers with ``labels``, or, given ``text_mb``, of both towers."""
    beside = labels * tower.embed_dim * FLOAT32 / 1e6 if text_mb is None else text_mb
    with tempfile.TemporaryDirectory() as folder:
        yield Meter(teacher, tower, Path(folder), beside)


def text_tower_cost(teacher: LoadedClip, prompts: Sequence[str]) -> tuple[float, bool]:
    """Return MB of the text tower in int8, and whether it was trimmed to the prompts' tokens.

    If its tokenizer cannot be trimmed, it has all tokens. Raises ModelError, VerificationError.
    """
    from tinyclip_export.bundle.trim_vocab import trim_vocabulary
    from tinyclip_export.onnx_passes.exporter import export_text_tower
    from tinyclip_export.quantization.recipe import QuantizeJob
    from tinyclip_export.quantization.registry import recipes_for
    from tinyclip_export.towers.factory import input_form, text_tower

    trims = True
    try:
        clip = trim_vocabulary(teacher, prompts).clip
    except ModelError:
        clip, trims = teacher, False
    preset = ExportPreset()
    module = text_tower(clip.model, clip.tokenizer(["a"])[0], plain=preset.operators == "plain")
    with tempfile.TemporaryDirectory() as folder:
        source, target = (Path(folder) / f"text{end}.onnx" for end in ("", "-int8"))
        export_text_tower(module, source, form=input_form(clip, module, None))
        recipe = recipes_for("int8", preset, convolutional=False).text
        recipe.write(QuantizeJob("text", source, target))
        return target.stat().st_size / 1e6, trims


def teacher_cost(teacher: LoadedClip) -> Cost:
    """Return bytes and milliseconds of a teacher's image tower in fp32."""
    from tinyclip_export.onnx_passes.exporter import export_image_tower
    from tinyclip_export.towers.factory import image_tower

    plain = ExportPreset().operators == "plain"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.onnx"
        module = image_tower(teacher.model, plain=plain)
        export_image_tower(module, path, image_size=teacher.image_size, form=ANY_INPUT)
        return Cost(path.stat().st_size / 1e6, milliseconds(path, teacher.image_size))


def _calibration(student: LoadedClip, folder: Path) -> Calibration:
    """Return a few pictures of noise: activation ranges affect neither bytes nor times."""
    from tinyclip_export.quantization.calibration import Calibration

    shape = (NOISE, student.image_size, student.image_size, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Calibration(student, (list(pictures), ["a"] * NOISE), folder, eot=0)


def milliseconds(path: Path, image_size: int) -> float:
    """Return the median time for one decoded picture on one thread. Raises VerificationError."""
    from tinyclip_export.verification.embeddings import TowerFiles
    from tinyclip_export.verification.latency import interleaved_ms

    session = TowerFiles("int8", path, path).open("image", threads=1)
    pixels = np.random.default_rng(0).standard_normal((1, 3, image_size, image_size))
    feed = {IMAGE_IO.input_name: pixels.astype(np.float32)}
    return interleaved_ms([session], feed)[0]
