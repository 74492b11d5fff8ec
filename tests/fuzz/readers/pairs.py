"""Shards, tables and captions beside images."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from driver import Reader
from hostile import HOSTILE_BYTES, HOSTILE_JSON, hostile_tars
from mutations import changed_bytes, changed_json, changed_json_lines, changed_tar, zipped

from pair_shards import draw, encoded
from tinyclip_edge.data.opening import open_source
from tinyclip_edge.data.pairs import UndecodableImageError, decode_image

PNG = encoded(draw("red", "square", "small", 16))
ABOUT = {"caption": "a cat", "concept": "c", "more": [1, {"a": "b"}]}
ROW = {"image": "a.png", "caption": "a cat", "concept": "c"}
HOSTILE_ROWS = (
    b'image,caption\na.png,"a\n' * 4000, b'image,caption\n"' + b"x" * 200_000 + b'",a\n',
    b"image,caption\n" + b"x" * 5000 + b".png,a\n", b"image,caption\r\ra.png,a\r", b"image,caption",
    b"image,caption\na\0.png,a\n", b"image,caption\n../../etc/passwd,a\n", b"," * 100_000,
    b"image\tcaption\na.png\t\"a\n", b"image,caption\n,,,,\n", b"image,image,caption\na.png,b,c\n",
    b"image,caption\n" + b"a.png,\xff\n", b"\xff\xfei\0m\0a\0g\0e\0", b"image,caption\n\n\n\n",
)  # fmt: skip


def tar(*members: tuple[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as file:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def shards(_: Path) -> list[bytes]:
    about = json.dumps(ABOUT).encode()
    first = (("a.png", PNG), ("a.txt", b"a cat"), ("a.json", about))
    second = (("b/é.jpg", PNG), ("b/é.txt", "é\nb".encode()))
    long = (("n" * 200 + ".png", PNG), ("n" * 200 + ".txt", b"a"))
    return [
        tar(*first, *second),
        tar(*long, *second),
        tar(*second, *long, form=tarfile.PAX_FORMAT),
    ]


def read_pairs(path: Path) -> None:
    for pair in open_source(str(path)):
        decode_image(pair.image)


def reader_of(name: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        if not (folder / "a.png").exists():
            (folder / "a.png").write_bytes(PNG)
        (folder / name).write_bytes(content)
        read_pairs(folder / name)

    return read


def read_about(folder: Path, content: bytes) -> None:
    path = folder / "about.tar"
    path.write_bytes(tar(("a.png", PNG), ("a.json", content)))
    read_pairs(path)


def read_captions(folder: Path, content: bytes) -> None:
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "pictures/a.png").write_bytes(PNG)
    (folder / "pictures/a.txt").write_bytes(content)
    read_pairs(folder / "pictures")


def table(mark: bytes) -> Callable[[Path], Sequence[bytes]]:
    rows = [[b"image", b"caption"], [b"a.png", b"a cat"], [b"a.png", b'"a, dog"']]
    return lambda _: [b"\n".join(mark.join(row) for row in rows)]


def changed_table(rng: random.Random, valid: bytes) -> bytes:
    if rng.random() < 0.1:
        at = rng.randrange(len(valid))
        return valid[:at] + rng.choice(HOSTILE_ROWS + HOSTILE_BYTES) + valid[at:]
    return changed_bytes(rng, valid)


COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": "b", "file_name": "a.png"}],
    "annotations": [{"image_id": 1, "caption": "a cat"}, {"image_id": "b", "caption": ["a", "b"]}],
}
BAD = (UndecodableImageError,)
READERS = (
    Reader("shard", shards, changed_tar, reader_of("s.tar"), hostile_tars(), BAD),
    Reader(
        "packed shard",
        lambda folder: [gzip.compress(content, mtime=0) for content in shards(folder)],
        zipped(changed_tar),
        reader_of("s.tar.gz"),
        [gzip.compress(content) for content in (*hostile_tars(), *HOSTILE_BYTES)],
        BAD,
    ),
    Reader(
        "json of a shard",
        lambda _: [json.dumps(ABOUT).encode()],
        changed_json,
        read_about,
        HOSTILE_JSON,
        BAD,
    ),
    Reader("csv", table(b","), changed_table, reader_of("t.csv"), HOSTILE_ROWS, BAD),
    Reader("tsv", table(b"\t"), changed_table, reader_of("t.tsv"), HOSTILE_ROWS, BAD),
    Reader(
        "jsonl",
        lambda _: [b"\n".join([json.dumps(ROW).encode()] * 3)],
        changed_json_lines,
        reader_of("t.jsonl"),
        HOSTILE_JSON,
        BAD,
    ),
    Reader(
        "COCO captions",
        lambda _: [json.dumps(COCO).encode()],
        changed_json,
        reader_of("captions.json"),
        HOSTILE_JSON + HOSTILE_BYTES,
        BAD,
    ),
    Reader(
        "captions",
        lambda _: ["a cat\né".encode()],
        changed_bytes,
        read_captions,
        HOSTILE_BYTES,
        BAD,
    ),
)
