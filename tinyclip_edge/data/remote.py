"""Shards streamed over HTTP or from the output of a command."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse, InvalidURL
from typing import TYPE_CHECKING, cast

from tinyclip_edge.config.limits import USUAL, LimitsConfig
from tinyclip_edge.data.cuts import Losses
from tinyclip_edge.data.pairs import Pair
from tinyclip_edge.data.patterns import PIPE
from tinyclip_edge.data.shards import read_tar
from tinyclip_edge.data.tar_members import GZIP, BoundedGzip
from tinyclip_edge.data.web_address import opener, web_request
from tinyclip_edge.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER = 1 << 20  # bytes
SILENCE = 60.0  # timeout of a server or command: seconds without a byte
WAITS = (1.0, 2.0, 4.0)  # seconds before each retry
DIGITS = re.compile(r" *[0-9]{1,18} *")
RETRIED_CODES = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class RemoteShard:
    """One shard behind ``http://``, ``https://`` or ``pipe:COMMAND``."""

    url: str
    losses: Losses = field(default_factory=Losses, compare=False)
    limits: LimitsConfig = field(default=USUAL, compare=False)
    captionless: bool = False  # see SourceOptions

    @property
    def fingerprint(self) -> str:
        """The URL."""
        return self.url

    @property
    def pairs(self) -> None:
        """None until it is read."""

    @property
    def at_most(self) -> None:
        """None, because it is streamed."""

    @property
    def size(self) -> None:
        """None until it is read."""

    def __iter__(self) -> Iterator[Pair]:
        raw = PipeStream(self.url) if self.url.startswith(PIPE) else HttpStream(self.url)
        with io.BufferedReader(raw, BUFFER) as buffered:
            zipped = buffered.peek(2)[:2] == GZIP
            stream = BoundedGzip(self.url, buffered, self.limits) if zipped else buffered
            yield from read_tar(
                self.url, stream, self.losses, self.limits, captionless=self.captionless
            )


class HttpStream(io.RawIOBase):
    """Body of a GET request, resumed after interruptions. Raises DataError with the URL."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._reply: HTTPResponse | None = None
        self._at = 0  # bytes returned so far
        self._total: int | None = None
        self._tries = 0  # since the last byte

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the buffer; return 0 at the end."""
        while True:
            try:
                count = self._read(buffer)
            except urllib.error.HTTPError as error:
                if error.code not in RETRIED_CODES:
                    raise self._failed(f"HTTP {error.code} {error.reason}") from None
                self._wait(error)
            # ValueError: an invalid address or host name, or headers that are not numbers.
            except (InvalidURL, ValueError) as error:
                raise self._failed(str(error)) from None
            except (OSError, HTTPException) as error:
                self._wait(error)
            else:
                self._at += count
                self._tries = 0
                return count

    def close(self) -> None:
        """Close the connection."""
        self._drop()
        super().close()

    def _read(self, buffer: WriteableBuffer) -> int:
        if self._reply is None:
            self._reply = self._ask()
        count = self._reply.readinto(buffer)
        if count == 0 and self._total is not None and self._at < self._total:
            raise ConnectionError(f"ended after {self._at:,} of {self._total:,} bytes")
        return count

    def _ask(self) -> HTTPResponse:
        request = web_request(self._url)
        if self._at:
            request.add_header("Range", f"bytes={self._at}-")
        reply: HTTPResponse = opener().open(request, timeout=SILENCE)
        length = reply.headers.get("Content-Length")
        begins = self._at if reply.status == 206 else 0
        if length is not None:
            if not DIGITS.fullmatch(length):
                raise ValueError(f"its Content-Length is {length!r}")
            self._total = begins + int(length)
        place = reply.headers.get("Content-Range", "")
        if begins and place and not place.startswith(f"bytes {begins}-"):
            raise ValueError(f"asked for bytes from {begins}, Content-Range is {place!r}")
        skip = self._at - begins  # a server without range requests starts again
        while skip and (skipped := len(reply.read(min(skip, BUFFER)))):
            skip -= skipped
        return reply

    def _wait(self, error: Exception) -> None:
        self._drop()
        if self._tries == len(WAITS):
            raise self._failed(str(getattr(error, "reason", "") or error)) from None
        time.sleep(WAITS[self._tries])
        self._tries += 1

    def _failed(self, why: str) -> DataError:
        tried = f", tried {self._tries + 1} times" if self._tries else ""
        return DataError(f"shard {self._url} cannot be read: {why}{tried}")

    def _drop(self) -> None:
        if self._reply is not None:
            self._reply.close()
            self._reply = None


class PipeStream(io.RawIOBase):
    """Output of a shell command. Raises DataError if it fails or times out."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._silent = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the stream
        self._process = subprocess.Popen(
            url.removeprefix(PIPE),
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            start_new_session=True,
        )

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the buffer; return 0 after a successful command has ended."""
        output = cast("io.FileIO", self._process.stdout)  # bufsize=0
        watch = threading.Timer(SILENCE, self._give_up)
        watch.daemon = True
        watch.start()
        try:
            count = output.readinto(buffer) or 0
            if count == 0:
                self._finish()
        finally:
            watch.cancel()
        return count

    def close(self) -> None:
        """Terminate the command if it is still running."""
        if self.closed:
            return
        if self._process.poll() is None:
            self._kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()
        super().close()

    def _finish(self) -> None:
        code = self._process.wait()
        if self._silent:
            raise DataError(f"shard {self._url}: the command wrote nothing for {SILENCE:g} s")
        if code:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            last_line = f" ({lines[-1]})" if lines else ""
            raise DataError(
                f"shard {self._url}: the command failed with exit code {code}{last_line}"
            )

    def _give_up(self) -> None:
        self._silent = True
        self._kill()

    def _kill(self) -> None:
        """End the shell and its child processes."""
        try:
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        except (ProcessLookupError, PermissionError):
            pass  # it has ended
