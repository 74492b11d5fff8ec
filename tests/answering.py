"""A server that answers in the background of a test."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from socketserver import BaseServer
from typing import TypeVar

ServerT = TypeVar("ServerT", bound=BaseServer)
STOP_CHECK_S = 0.01  # the default of half a second is waited for at every shutdown


@contextlib.contextmanager
def answering(server: ServerT) -> Iterator[ServerT]:
    """Let an open server answer in a thread until the block ends, then close it."""
    with server:
        threading.Thread(target=server.serve_forever, args=(STOP_CHECK_S,), daemon=True).start()
        yield server
        server.shutdown()
