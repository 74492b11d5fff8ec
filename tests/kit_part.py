"""Parts of the starter kit: a small kit, which is read quickly, and pictures of one's own."""

from __future__ import annotations

import shutil
import tarfile
from collections import defaultdict
from pathlib import Path

from tinyclip_edge.starter import PACKAGE, from_scratch_path, kit_path, teacher_path
from tinyclip_edge.starter.kit import read_split

MEMBERS = 3  # of a sample: picture, captions, JSON
PART = {"train-00000": (3000, 1), "val-00000": (400, 2), "test_style-00000": (2190, 5)}


def write_kit_part(root: Path) -> Path:
    """Write every so many of the first samples of some shards as a package below ``root``.

    The teacher is whole.
    """
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


def write_own_pictures(root: Path, *, concepts: int, each: int) -> Path:
    """Write pictures of the commonest concepts in folders that name them, and labels.txt."""
    by_concept: dict[str, list[bytes]] = defaultdict(list)
    for sample in read_split(kit_path(), "train"):
        by_concept[sample.concept].append(sample.webp)
    names = sorted(by_concept, key=lambda name: -len(by_concept[name]))[:concepts]
    for name in names:
        folder = root / "pictures" / name.replace(" ", "_")
        folder.mkdir(parents=True)
        for number, webp in enumerate(by_concept[name][:each]):
            (folder / f"{number}.webp").write_bytes(webp)
    (root / "labels.txt").write_text("".join(f"{name}\n" for name in names))
    return root
