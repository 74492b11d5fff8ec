"""Format of a file that is not a tar, from its first bytes, for messages."""

from __future__ import annotations

import codecs

PARQUET = (
    "a parquet table, which is not supported; write paths and captions as .csv or .jsonl, or use "
    "the .tar files of img2dataset"
)
USTAR = slice(257, 262)  # position of the magic "ustar" of every common tar format
MAGIC = {
    b"PK\x03\x04": "a zip archive; unpack it and write a tar",
    b"PAR1": PARQUET,
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself (git lfs pull)",
}


def kind_of(head: bytes) -> str | None:
    """Return the format of a file whose first 512 bytes are ``head``; None: a tar, or unknown.

    JSON, HTML and other text are distinguished by their first character.
    """
    if head[USTAR] == b"ustar":
        return None
    kind_by_magic = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)
    return kind_by_magic or _kind_of_text(head)


def _kind_of_text(head: bytes) -> str | None:
    try:
        # Incremental, because the last character may be incomplete.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head).lstrip()
    except UnicodeDecodeError:
        return None
    if not text or "\0" in text:
        return None
    if text.startswith(("{", "[")):
        return "JSON; captions in JSON can be read only from a local .jsonl table or COCO's .json"
    if text.startswith("<"):
        return "HTML or XML, perhaps an error page from a server"
    return "text; a table of image paths and captions must be a local .csv, .tsv or .jsonl"
