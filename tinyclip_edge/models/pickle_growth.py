"""Refuse torch files that would become much larger in memory, before they are opened.

Besides tensors, ``torch.load`` allows a bytearray of any size and all of Python's codecs, some of
which double the length of a text each time they are applied.
"""

from __future__ import annotations

import codecs
import io
import mmap
import pickletools
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from tinyclip_edge.errors import ModelError

_ARCHIVE = b"PK\x03\x04"
_BYTEARRAY, _ENCODE = b"bytearray\n", b"_codecs\nencode\n"  # as a pickle names them
_LEGACY_PICKLES = 5  # before the values: three headers, the content, the names of its storages
_LONGEST_CODEC = 40  # characters


def refuse_swelling(path: Path) -> None:
    """Raise ModelError for compressed or overlapping members, and for pickles that swell.

    Errors from a file that is neither an archive nor a pickle are not caught.
    """
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return  # a TorchScript program, which torch.load refuses before it reads a member
            members = archive.infolist()
            # torch writes neither, and they could expand to any size.
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ModelError(f"{path} is a compressed archive, not a file that torch wrote")
            if sum(member.file_size for member in members) > size:
                raise ModelError(f"{path} has members that share their bytes; torch writes none")
            _refuse_pickles(path, (archive.read(m) for m in members if m.filename[-4:] == ".pkl"))
    if not size:
        return
    with path.open("rb") as file:
        is_archive = file.read(len(_ARCHIVE)) == _ARCHIVE
        if not is_archive:  # torch goes by the first bytes alone
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _refuse_bytearray(path, content)
                if content.find(_ENCODE) >= 0:
                    file.seek(0)
                    _refuse_codecs(path, file, _LEGACY_PICKLES)


def _refuse_pickles(path: Path, pickles: Iterable[bytes]) -> None:
    for content in pickles:
        _refuse_bytearray(path, content)
        if _ENCODE in content:
            _refuse_codecs(path, io.BytesIO(content), 1)


def _refuse_bytearray(path: Path, content: bytes | mmap.mmap) -> None:
    if content.find(_BYTEARRAY) >= 0:
        raise ModelError(
            f"{path} cannot be read as plain weights: it is a pickle that uses bytearray, "
            "which may have any size"
        )


def _refuse_codecs(path: Path, file: IO[bytes], count: int) -> None:
    """Refuse names of codecs, such as hex, that can be applied to their own output."""
    for text in _texts(file, count):
        try:
            is_text = len(text) > _LONGEST_CODEC or codecs.lookup(text)._is_text_encoding
        except (LookupError, ValueError):
            continue
        if not is_text:
            raise ModelError(
                f"{path} cannot be read as plain weights: it is a pickle that uses the codec {text}"
            )


def _texts(file: IO[bytes], count: int) -> Iterator[str]:
    for _ in range(count):
        for _operator, argument, _place in pickletools.genops(file):
            if isinstance(argument, str):
                yield argument
