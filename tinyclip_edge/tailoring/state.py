"""The state of a tailoring before its teacher reads the pictures."""

from __future__ import annotations

from dataclasses import dataclass

from tinyclip_edge.config import RunConfig
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.tailoring.pictures import PictureList
from tinyclip_edge.tailoring.recipes import run_config
from tinyclip_edge.tailoring.request import TailorRequest
from tinyclip_edge.tailoring.search import Candidates
from tinyclip_edge.tailoring.shapes import ImageShape, TeacherTower
from tinyclip_edge.tailoring.work import WorkFolder


@dataclass(frozen=True, slots=True)
class Tailoring:
    """Request, pictures and candidates, before the teacher reads the pictures."""

    request: TailorRequest
    work: WorkFolder
    listed: PictureList
    teacher: LoadedClip
    tower: TeacherTower
    candidates: Candidates

    def config(self, shape: ImageShape, pictures: int, steps: int) -> RunConfig:
        """Return the run of a shape."""
        return run_config(
            self.request, self.work, self.tower, shape, pictures=pictures, steps=steps
        )

    def shape(self, name: str) -> ImageShape:
        """Return the candidate with a name."""
        return next(shape for shape in self.candidates.costs if shape.name == name)
