"""The student at the start of a stage; a run has one stage, from the teacher to the student."""

from __future__ import annotations

from accelerate.utils import set_seed

from tinyclip_edge.config import RunConfig
from tinyclip_edge.inherit import InheritanceReport
from tinyclip_edge.models import LoadedClip, create_student, inherit_student


def start_student(
    config: RunConfig, teacher: LoadedClip
) -> tuple[LoadedClip, InheritanceReport | None]:
    """Return the student with the weights of step 0, and what it inherited.

    Seeds every generator first, so that random weights depend on the seed alone. Raises ModelError
    and InheritanceError.
    """
    set_seed(config.seed)
    student = create_student(config.student.model, teacher)
    if config.inherit.method == "none":
        return student, None
    return student, inherit_student(teacher, student, layers=config.inherit.layers)
