"""Tables of toy pictures: what the tests of tables and folders share."""

import json

import numpy as np
import shard_files
import torch

from pair_shards import draw, encoded
from tinyclip_edge.data import PixelCodec, open_source

PIXELS = encoded(draw("red", "bar", "big"))


def small(image):
    pixels = np.asarray(image.convert("RGB").resize((8, 8)), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


CODEC = PixelCodec(small, (0, 0, 0), (1, 1, 1))


def write(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def refused(source):
    return shard_files.refused(open_source, str(source))


# Each form of a table: its lines, from rows of image and caption.
FORMS = {
    "a.csv": lambda rows: ["id,image,caption", *(f"7,{i},{c}" for i, c in rows)],
    "b.csv": lambda rows: ["filepath\ttitle", *(f"{i}\t{c}" for i, c in rows)],
    "a.tsv": lambda rows: ["Path\tText", *(f'{i}\t"{c}"' for i, c in rows)],
    "a.jsonl": lambda rows: [json.dumps({"captions": [c], "file_name": i}) for i, c in rows],
    "b.jsonl": lambda rows: ["", *(json.dumps({"path": i, "text": c}) for i, c in rows), ""],
}
