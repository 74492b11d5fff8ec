"""How many pictures a bundle judges to be of another kind than those of its training.

``python benchmarks/familiarity.py BUNDLE [--photos TAR …] [--limit 600] [--out FILE]`` tests the
sets of the starter kit, which should be familiar, and pictures of tar files, such as photographs,
which should be unfamiliar to a bundle trained on pictograms.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.evaluation import evaluation_set
from tinyclip_edge.runtime.image_formats import is_image_name
from tinyclip_edge.runtime.protocol import ImageInput

SETS = ("starter:val", "starter:test_concepts", "starter:test_style")
LABELS = ("a picture", "another picture")


def main() -> None:
    """Read the command line, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--limit", type=int, default=600, help="pictures of each tar file")
    parser.add_argument("--precision")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    clip = EdgeCLIP.load(args.bundle, precision=args.precision)
    if clip.familiarity is None:
        raise SystemExit(f"{args.bundle} has no familiarity data; export the bundle from its run")
    sources: list[tuple[str, Sequence[ImageInput]]] = [
        (name, evaluation_set(name).images) for name in SETS
    ]
    sources += [
        (f"{path.parent.name}/{path.name}", list(islice(tar_pictures(path), args.limit)))
        for path in args.photos
    ]
    rows = []
    for name, pictures in sources:
        share = unfamiliar(clip, pictures)
        rows.append({"set": name, "pictures": len(pictures), "unfamiliar": round(share, 4)})
        sys.stdout.write(f"{100 * share:5.1f} % of {len(pictures):,} pictures  {name}\n")
        sys.stdout.flush()
    if args.out:
        report = {"bundle": clip.name, "precision": clip.precision, "sets": rows}
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def unfamiliar(clip: EdgeCLIP, pictures: Sequence[ImageInput]) -> float:
    """Return the share of pictures that are unfamiliar to the bundle."""
    answers = (clip.classify(picture, LABELS) for picture in pictures)
    return sum(answer.familiar is False for answer in answers) / len(pictures)


def tar_pictures(path: Path) -> Iterator[bytes]:
    """Yield the pictures of a tar file, in order."""
    with tarfile.open(path) as tar:
        for member in tar:
            content = tar.extractfile(member) if is_image_name(Path(member.name)) else None
            if content is not None:
                yield content.read()


if __name__ == "__main__":
    main()
