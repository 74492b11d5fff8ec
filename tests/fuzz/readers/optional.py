"""What is read with optional packages: search graphs, parquet files of embeddings, videos."""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from driver import Reader
from hostile import HOSTILE_BYTES
from mutations import changed_bytes, changed_zip
from PIL import Image

from tinyclip_edge.runtime.index import ImageIndex
from tinyclip_edge.runtime.parquet_rows import read_header
from tinyclip_edge.runtime.vectors import unit
from tinyclip_edge.runtime.video import frame_at, video_frames


def random_index() -> ImageIndex:
    features = unit(np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32))
    keys = tuple(f"{number}.png" for number in range(60))
    return ImageIndex(keys, features, "x-int8", metadata=({"a": 1},) * 60)


def graphs(folder: Path) -> Sequence[bytes]:
    return [random_index().approximate().save(folder / "graph.npz").read_bytes()]


def search_graph(folder: Path, content: bytes) -> None:
    (folder / "a.npz").write_bytes(content)
    for mmap in (False, True):
        index = ImageIndex.load(folder / "a.npz", mmap=mmap)
        index[:50].top(np.ones(index.features.shape[1], np.float32), 3)


def parquet_files(folder: Path) -> Sequence[bytes]:
    index = random_index()
    return [
        each.to_parquet(folder / f"{number}.parquet").read_bytes()
        for number, each in enumerate((index, index.compressed()))
    ]


def read_parquet(folder: Path, content: bytes) -> None:
    (folder / "a.parquet").write_bytes(content)
    read_header(folder / "a.parquet")
    ImageIndex.from_parquet(folder / "a.parquet")


def videos(folder: Path) -> Sequence[bytes]:
    import av

    contents = []
    for name, codec in (("a.mp4", "mpeg4"), ("a.avi", "mjpeg"), ("a.mkv", "mpeg4")):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=5)
            stream.width, stream.height = 32, 24
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for colour in ("red", "blue", "lime") * 3:
                frame = av.VideoFrame.from_image(Image.new("RGB", (32, 24), colour))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        contents.append(name.encode() + b"\n" + (folder / name).read_bytes())
    return contents


def changed_video(rng: random.Random, valid: bytes) -> bytes:
    name, _, content = valid.partition(b"\n")
    return name + b"\n" + changed_bytes(rng, content)


def read_video(folder: Path, data: bytes) -> None:
    name, _, content = data.partition(b"\n")
    path = folder / name.decode()
    path.write_bytes(content)
    frame_at(str(path), 0.5)
    for _ in video_frames(str(path), 0.5):
        pass


NAMED = [b"a.mp4\n" + content for content in HOSTILE_BYTES]
OPTIONAL = {
    "usearch": Reader("index with a graph", graphs, changed_zip, search_graph, weight=0.5),
    "pyarrow": Reader("parquet of embeddings", parquet_files, changed_bytes, read_parquet,
                      HOSTILE_BYTES, weight=0.5),
    "av": Reader("video", videos, changed_video, read_video, NAMED, weight=0.3),
}  # fmt: skip
READERS = tuple(reader for package, reader in OPTIONAL.items() if find_spec(package))
