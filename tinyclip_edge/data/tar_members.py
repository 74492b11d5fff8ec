"""Read the files of a tar stream one by one, with bounded memory."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, cast

from tinyclip_edge.config.limits import USUAL, LimitsConfig
from tinyclip_edge.data.kinds import kind_of
from tinyclip_edge.errors import DataError
from tinyclip_edge.limits import MIB, NAME_BYTES, RATIO_FROM

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BLOCK = 512  # bytes of a tar block; an archive ends with zero blocks
AHEAD = 20 * BLOCK  # bytes that tarfile reads from a stream at once
GZIP = b"\x1f\x8b"
SEVERAL = 16  # reads at the end; tarfile would skip any size that a header claims
BROKEN = (tarfile.TarError, EOFError, zlib.error, OSError)
# Members reserved by webdataset, and AppleDouble files of macOS.
META = re.compile(r"__[^/]*__($|/)|(.*/)?\._[^/]*$", re.DOTALL)


class Source(Protocol):
    """Bytes of an uncompressed tar."""

    def read1(self, size: int = ..., /) -> bytes:
        """Return some bytes, none at the end."""


class MeteredStream:
    """Reader for tarfile that limits a member's headers and records how the tar ends."""

    def __init__(self, name: str, raw: Source, limits: LimitsConfig) -> None:
        self.empty = True
        self.ended = False  # there are no more bytes
        self._name = name
        self._raw = raw
        self._limits = limits
        self._head = b""
        self._last = b""
        self._size = 0
        self._nothing = 0  # reads since the end
        self._allowed: int | None = None  # maximum offset of a member's headers

    def begin_header(self, skipped: int) -> None:
        """Limit the bytes read before ``end_header``, not counting ``skipped`` content bytes."""
        self._allowed = self._size + skipped + self._limits.header_kb * 1024 + AHEAD

    def end_header(self) -> None:
        """Return to reading content, without a limit."""
        self._allowed = None

    def read(self, size: int = -1) -> bytes:
        """Return some bytes; raise DataError if a header exceeds the limit."""
        if self._allowed is not None and self._size > self._allowed:
            raise DataError(
                f"shard {self._name}: headers of a member take more than "
                f"{self._limits.header_kb} KiB (data.limits.header_kb)"
            )
        try:
            data = self._raw.read1(size)  # return the bytes before a truncation
        except EOFError:
            self.ended = True
            raise
        self.ended = not data
        self._nothing = 0 if data else self._nothing + 1
        if self._nothing > SEVERAL:
            raise EOFError("unexpected end of data")
        self.empty = self.empty and not data
        if len(self._head) < BLOCK:
            self._head = (self._head + data)[:BLOCK]
        self._size += len(data)
        self._last = (self._last + data[-BLOCK:])[-BLOCK:]
        return data

    def fault(self, error: str) -> str:
        """Describe a stream that tarfile could not read."""
        if self.empty:
            return "is empty; write it again"
        if kind := kind_of(self._head):
            return f"is not a tar but {kind}"
        return f"is truncated or damaged ({error}); write it again"

    @property
    def within_a_block(self) -> bool:
        """Whether the bytes read end in the middle of a tar block."""
        return self._size % BLOCK != 0

    def ends_with_zero_block(self) -> bool:
        """Read to the end and return whether the tar ends properly; tarfile ignores this."""
        while self.read(MIB):
            pass
        return self._last == bytes(BLOCK)


def member_headers(
    name: str, stream: MeteredStream, limits: LimitsConfig
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield each regular file of a tar before its content is read; raise BROKEN errors.

    Raises DataError if a member, a name, the headers or their number exceed the limits.
    """
    stream.begin_header(0)
    with _opened(stream) as tar:
        # Opening has read the first one. Without any, next() fails on Python 3.10.
        if tar.firstmember is None:  # type: ignore[attr-defined]
            return
        read = 0
        while (member := _next(tar)) is not None:
            stream.end_header()
            tar.members = []  # type: ignore[attr-defined]  # else they accumulate
            read += 1
            _check(name, member, read, limits)
            if member.isreg() and not META.match(member.name):
                yield tar, member
            stream.begin_header(member.size)


def member_content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return the content of a file yielded by ``member_headers``; raise BROKEN errors."""
    with _one_kind():
        file = tar.extractfile(member)
        return b"" if file is None else file.read()


@contextmanager
def _one_kind() -> Iterator[None]:
    """Turn tarfile's errors about invalid numbers into its own error class."""
    try:
        yield
    except RecursionError:
        raise tarfile.ReadError("headers without a member") from None
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        raise tarfile.ReadError(f"invalid header: {error}") from None


def _opened(stream: MeteredStream) -> tarfile.TarFile:
    with _one_kind():  # reads the first header
        return tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|", bufsize=AHEAD)


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    with _one_kind():
        return tar.next()


def _check(name: str, member: tarfile.TarInfo, read: int, limits: LimitsConfig) -> None:
    if read > limits.members:
        raise DataError(
            f"shard {name} has more than {limits.members:,} members (data.limits.members)"
        )
    if len(member.name) > NAME_BYTES:
        raise DataError(
            f"shard {name}: a member's name has {len(member.name):,} characters, more than "
            f"{NAME_BYTES:,}: '{member.name}'"
        )
    if member.size > limits.member_mb * MIB:
        raise DataError(
            f"shard {name}: member '{member.name}' has {member.size:,} bytes, more than "
            f"{limits.member_mb} MiB; raise data.limits.member_mb if that is correct"
        )


def open_tar(path: Path, limits: LimitsConfig = USUAL) -> io.BufferedIOBase:
    """Open a .tar or .tar.gz as an uncompressed stream; raise DataError if it cannot be opened."""
    try:
        file = path.open("rb")
        # GzipFile checks length and CRC; tarfile's stream mode accepts a truncated file.
        return BoundedGzip(str(path), file, limits) if file.peek(2)[:2] == GZIP else file
    except OSError as error:
        raise DataError(f"shard {path} cannot be opened: {error.strerror}") from None


class BoundedGzip(gzip.GzipFile):
    """Gzip stream with a limited compression ratio."""

    def __init__(self, name: str, packed: io.BufferedIOBase, limits: LimitsConfig) -> None:
        """Wrap the compressed stream, and close it at the end."""
        self._name_of_shard = name
        self._counted = _Counted(packed)
        self._ratio = limits.ratio
        self._unpacked = 0
        super().__init__(fileobj=cast("IO[bytes]", self._counted), mode="rb")

    def read1(self, size: int = -1) -> bytes:
        """Return some bytes; raise DataError above the ratio."""
        data = super().read1(size)
        self._unpacked += len(data)
        if self._unpacked > max(RATIO_FROM, self._ratio * self._counted.size):
            raise DataError(
                f"shard {self._name_of_shard} unpacks to more than {self._ratio} times its size; "
                "raise data.limits.ratio if that is correct"
            )
        return data

    def close(self) -> None:
        """Close the compressed stream as well."""
        super().close()
        self._counted.packed.close()


class _Counted:
    """Compressed stream that counts the bytes read."""

    def __init__(self, packed: io.BufferedIOBase) -> None:
        self.packed = packed
        self.size = 0

    def read(self, size: int = -1) -> ReadableBuffer:
        data = self.packed.read(size)
        self.size += len(data)
        return data
