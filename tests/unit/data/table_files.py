"""Tables of toy pictures: what the tests of tables and folders share."""

import json

import shard_files
from toy_codec import toy_codec

from pair_shards import draw, encoded
from tinyclip_edge.data import open_source

PIXELS = encoded(draw("red", "bar", "big"))


CODEC = toy_codec()


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
