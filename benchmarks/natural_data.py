"""Tiny-ImageNet as image-caption shards; half of its validation is for tuning, half for reporting.

``--data`` is the folder with ``train-00.tar``, ``val.tar`` (images in one folder per class) and
``classes.tsv`` (folder, tab, names separated by commas). A class has several names, and captions of
a picture use any of them in any template.

    python benchmarks/natural_data.py --data tiny-imagenet-200 --out runs/natural/data
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from natural_profiles import PROFILES

TEMPLATES = (
    "a photo of a {}",
    "a photo of the {}",
    "a blurry photo of a {}",
    "a close-up photo of a {}",
    "a cropped photo of the {}",
    "a bright photo of a {}",
    "a dark photo of the {}",
    "a low resolution photo of a {}",
    "a picture of a {}",
    "an image of a {}",
    "a small {}",
    "the {}",
    "{}",
)
PROMPT = TEMPLATES[0]  # the one prompt of zero-shot classification
NAMES = 4  # maximum per class
CHOOSE, REPORT = "choose", "report"


def class_names(data: Path, limit: int | None = None) -> dict[str, list[str]]:
    """Return the names, commonest first, of each of the first ``limit`` class folders."""
    names = {}
    for line in (data / "classes.tsv").read_text(encoding="utf-8").splitlines()[:limit]:
        folder, _, text = line.partition("\t")
        names[folder] = [name.strip() for name in text.split(",")][:NAMES]
    return names


def captions(names: list[str]) -> list[str]:
    return [template.replace("{}", name) for name in names for template in TEMPLATES]


def pictures(
    path: Path, classes: list[str], limit: int | None = None
) -> Iterator[tuple[str, str, bytes]]:
    """Yield class, name and JPEG bytes of at most ``limit`` pictures per class."""
    counts: dict[str, int] = defaultdict(int)
    included = set(classes)
    with tarfile.open(path) as tar:
        for member in tar:
            folder = Path(member.name).parent.name
            if not member.isfile() or folder not in included:
                continue
            counts[folder] += 1
            if limit is None or counts[folder] <= limit:
                yield folder, Path(member.name).stem, tar.extractfile(member).read()  # type: ignore[union-attr]


def val_half(
    data: Path, classes: list[str], part: str, limit: int | None = None
) -> Iterator[tuple[str, str, bytes]]:
    """Yield every second validation picture of each class: the even ones are for tuning."""
    counts: dict[str, int] = defaultdict(int)
    for folder, key, jpeg in pictures(data / "val.tar", classes, limit):
        if counts[folder] % 2 == (CHOOSE, REPORT).index(part):
            yield folder, key, jpeg
        counts[folder] += 1


def write_data(data: Path, out: Path, *, classes: int = 200, limit: int | None = None) -> None:
    """Write shards of training and of both validation halves, once, and the halves by class."""
    if (out / "done").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    names = class_names(data, classes)
    with tarfile.open(out / "train.tar", "w") as shard:
        for folder, key, jpeg in pictures(data / "train-00.tar", list(names), limit):
            _add_pair(shard, key, jpeg, captions(names[folder]), folder)
    for part in (CHOOSE, REPORT):
        with (
            tarfile.open(out / f"{part}.tar", "w") as shard,
            tarfile.open(out / f"{part}-classes.tar", "w") as class_folders,
        ):
            for folder, key, jpeg in val_half(data, list(names), part, limit):
                _add_pair(shard, key, jpeg, [PROMPT.replace("{}", names[folder][0])], folder)
                _add(class_folders, f"{folder}/{key}.jpg", jpeg)
    lines = [f"{folder}\t{', '.join(synonyms)}" for folder, synonyms in names.items()]
    (out / "classes.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (out / "done").touch()


def _add_pair(tar: tarfile.TarFile, key: str, jpeg: bytes, texts: list[str], concept: str) -> None:
    _add(tar, f"{key}.jpg", jpeg)
    _add(tar, f"{key}.txt", "\n".join(texts).encode())
    _add(tar, f"{key}.json", json.dumps({"concept": concept}).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/natural/data"))
    parser.add_argument("--scale", choices=PROFILES, default="gpu")
    arguments = parser.parse_args()
    profile = PROFILES[arguments.scale]
    write_data(arguments.data, arguments.out, classes=profile.classes, limit=profile.most)


if __name__ == "__main__":
    main()
