"""Arrays in an .npz file: no pickles, memory bounded by the file, and usable in place."""

from __future__ import annotations

import io
import math
import struct
import warnings
import zipfile
from typing import IO, Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64  # bytes: arrays start at a multiple, so they can be mapped and used in place

_LOCAL_HEADER = 30  # bytes before a member's name
_ZIP64_EXTRA = 20  # bytes that zipfile adds to a local header with 64-bit sizes
_PADDING = 0xD935  # kind of an extra field that only aligns what follows


def write_member(archive: zipfile.ZipFile, name: str, array: npt.NDArray[Any]) -> None:
    """Write an array whose numbers start at a multiple of ALIGNMENT."""
    member = zipfile.ZipInfo(name)
    # Counted from the start of the archive, which need not be the start of its file.
    start = archive.start_dir + _LOCAL_HEADER + len(name) + _ZIP64_EXTRA
    padding = -(start + 4) % ALIGNMENT
    member.extra = struct.pack("<HH", _PADDING, padding) + bytes(padding)
    with archive.open(member, "w", force_zip64=True) as file:
        contiguous = np.ascontiguousarray(array).reshape(array.shape)
        np.lib.format.write_array(file, contiguous, allow_pickle=False)


def read_array(file: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """Return an array in memory; raise ValueError for one that does not match its header."""
    content = io.BytesIO(file.read(_stored(file, name)))
    _check_header(content, name, len(content.getvalue()))
    content.seek(0)
    return np.asarray(np.lib.format.read_array(content, allow_pickle=False))


def mapped_array(raw: IO[bytes], file: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """Return an array that stays in the file ``raw``, mapped into memory."""
    member = _stored(file, name)
    raw.seek(member.header_offset)
    header = raw.read(_LOCAL_HEADER)
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = member.header_offset + _LOCAL_HEADER + name_length + extra_length
    end = start + member.file_size
    if end > raw.seek(0, io.SEEK_END):
        raise ValueError(f"{name} ends beyond the file")
    raw.seek(start)
    shape, dtype, by_columns = _check_header(raw, name, end)
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(raw, dtype, "r", raw.tell(), shape, "F" if by_columns else "C")


def _stored(file: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    member = file.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return member


def _check_header(
    file: IO[bytes], name: str, end: int
) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Return shape, type, and whether columns come first; the numbers must fill up to ``end``."""
    version = np.lib.format.read_magic(file)
    header_readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in header_readers:
        raise ValueError(f"{name} has an unsupported version of numpy's format")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a header of Python 2 is not ours
        shape, fortran, dtype = header_readers[version](file)
    # numpy allocates the size that the header claims before it reads the data.
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != end - file.tell():
        raise ValueError(f"{name} does not match its header")
    return shape, dtype, fortran and len(shape) > 1
