"""Latency of interleaved sessions, so that other load on the machine affects all alike."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from tinyclip_export.layout import Feed
from tinyclip_export.verification.embeddings import Session

ROUNDS, WARM_UP = 15, 2


def interleaved_ms(sessions: Sequence[Session], feed: Feed) -> list[float]:
    """Return each session's median milliseconds for the same input."""
    seconds: list[list[float]] = [[] for _ in sessions]
    for _ in range(WARM_UP + ROUNDS):
        for session, session_seconds in zip(sessions, seconds, strict=True):
            start = time.perf_counter()
            session.run(None, feed)
            session_seconds.append(time.perf_counter() - start)
    return [1e3 * float(np.median(session_seconds[WARM_UP:])) for session_seconds in seconds]
