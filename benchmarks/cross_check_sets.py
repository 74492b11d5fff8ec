"""Sets for cross_check.py: Tiny-ImageNet in its own layout, and pictures with five captions each.

    python benchmarks/cross_check_sets.py --images tiny-imagenet-200/val.tar \
        --names tiny-imagenet-200/classes.tsv --out runs/cross-check

``--images`` is a tar with one folder per class. It is written as ``classes/CLASS/images/NAME.JPEG``
and as ``annotated/images`` with ``val_annotations.txt``, the two layouts of Tiny-ImageNet. The five
captions, in ``five/pairs.csv``, are the names of the starter kit's unseen pictures in five phrases;
the rows of a picture are not adjacent.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

PHRASES = ("{}", "a picture of {}", "{} icon", "the symbol for {}", "a drawing that shows {}")
PAIRS = "starter:test_style"


def write_layouts(images: Path, names: Path, out: Path) -> None:
    """Write both layouts of Tiny-ImageNet from a tar with one folder per class."""
    flat = out / "annotated" / "images"
    flat.mkdir(parents=True, exist_ok=True)
    rows = []
    with tarfile.open(images) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            file = tar.extractfile(member) if member.isfile() else None
            if file is None:
                continue
            content = file.read()
            folder = out / "classes" / name.parent.name / "images"
            folder.mkdir(parents=True, exist_ok=True)
            for place in (folder, flat):
                (place / name.name).write_bytes(content)
            rows.append(f"{name.name}\t{name.parent.name}\t0\t0\t63\t63\n")
    (out / "annotated" / "val_annotations.txt").write_text("".join(rows), encoding="utf-8")
    shutil.copyfile(names, out / "words.txt")


def write_captions(pairs: Iterable[tuple[str, bytes]], folder: Path) -> None:
    """Write pictures, by name, and a table with five rows for each."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries = []
    for number, (name, content) in enumerate(pairs):
        path = folder / "images" / f"{number:05d}.webp"
        path.write_bytes(content)
        entries.append((f"images/{path.name}", name))
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("image", "caption"))
        for phrase in PHRASES:
            table.writerows((image, phrase.replace("{}", name)) for image, name in entries)


def main() -> None:
    from tinyclip_edge.evaluation import evaluation_set

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--names", type=Path, required=True, help="folder, tab, names of a class")
    parser.add_argument("--out", type=Path, default=Path("runs/cross-check"))
    options = parser.parse_args()
    write_layouts(options.images, options.names, options.out)
    pairs = evaluation_set(PAIRS)
    images = (image for image in pairs.images if isinstance(image, bytes))
    write_captions(zip(pairs.texts, images, strict=True), options.out / "five")


if __name__ == "__main__":
    main()
