"""The server's metrics, in Prometheus format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
_PREFIX = "tinyclip_edge"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class ServerMetrics:
    """Counters of one server, apart from those of other servers in the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            f"{_PREFIX}_requests", "Requests answered", ["route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            f"{_PREFIX}_request_seconds", "Time to answer", ["route"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._batches = Histogram(
            f"{_PREFIX}_batch_size", "Inputs that the model embedded at once", ["tower"],
            buckets=_SIZES, registry=self.registry,
        )  # fmt: skip
        self._waiting = Gauge(
            f"{_PREFIX}_waiting", "Inputs that wait for the model", ["tower"],
            registry=self.registry,
        )  # fmt: skip

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batches_of(self, tower: str) -> Callable[[int], None]:
        """Return a function that records the size of a tower's batch."""
        return self._batches.labels(tower).observe

    def watch(self, tower: str, waiting: Callable[[], int]) -> None:
        """Report how many inputs wait for a tower, whenever metrics are read."""
        self._waiting.labels(tower).set_function(waiting)

    def text(self) -> bytes:
        """Return all metrics in Prometheus text format."""
        return generate_latest(self.registry)
