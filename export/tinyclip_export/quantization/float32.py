"""A tower that stays float in a quantized precision."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any, ClassVar

from tinyclip_export.quantization.recipe import QuantizeJob


@dataclass(frozen=True, slots=True)
class FloatRecipe:
    """The fp32 tower as it is, and why it was chosen."""

    reason: str

    saturates: ClassVar = False
    integer: ClassVar = False
    operators: ClassVar[tuple[str, ...]] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's form."""
        return {"kind": "float", "reason": self.reason}

    def write(self, job: QuantizeJob) -> None:
        """Copy the source to ``job.target``."""
        shutil.copyfile(job.source, job.target)
