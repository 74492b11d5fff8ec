"""A part of the starter kit, beside the whole teacher: reading all of it takes seconds a run."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from tinyclip_edge.starter import PACKAGE, from_scratch_path, kit_path, teacher_path

MEMBERS = 3  # of a sample: picture, captions, JSON
PART = {"train-00000": (3000, 1), "val-00000": (400, 2), "test_style-00000": (2190, 5)}


def write_kit_part(root: Path) -> Path:
    """Write every so many of the first samples of some shards as a package below ``root``."""
    folder = root / PACKAGE
    (folder / "shards").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "teacher").symlink_to(teacher_path())
    shutil.copy(from_scratch_path(), folder)
    for name, (end, every) in PART.items():
        file = f"{name}.tar.gz"
        with (
            tarfile.open(kit_path() / file, "r|gz") as source,
            tarfile.open(folder / "shards" / file, "w:gz", compresslevel=1) as part,
        ):
            for number, member in zip(range(MEMBERS * end), source, strict=False):
                if number // MEMBERS % every == 0:
                    part.addfile(member, source.extractfile(member))
    return folder
