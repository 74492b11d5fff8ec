"""Measure one model in a separate process: cold start, throughput and memory, as a line of JSON.

Started by ``bench`` as ``python -m tinyclip_edge.evaluation.probe '{"model": …}'``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BATCH = 32
REPEATS = 3
_PICTURE = 256  # width and height of the random image, in pixels


def measure(started: float, **model: Any) -> dict[str, Any]:  # noqa: ANN401 - of open_on_device
    """Return milliseconds from ``started`` (epoch seconds) to the first text embedding, and more.

    ``model``: arguments of ``open_on_device``. Throughput is in images per second at batch 32,
    the best of three.
    """
    from tinyclip_edge.evaluation.open import open_on_device

    embedder = open_on_device(**model)
    embedder.encode_text(["a photo of a cat"])
    cold_start_ms = (time.time() - started) * 1000
    text_mb = peak_megabytes()
    return {
        "cold_start_ms": cold_start_ms,
        "text_only_mb": text_mb,
        "images_per_second": _throughput(embedder.encode_image),
        "peak_mb": peak_megabytes(),
    }


def peak_megabytes() -> float | None:
    """Return the peak resident memory of the process in 10^6 bytes; None if it is unknown."""
    try:
        # Not getrusage: on Linux its peak includes that of the parent process.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return None


def timed_picture() -> npt.NDArray[np.uint8]:
    """Return the decoded picture ``[256, 256, 3]`` that measurements encode."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (_PICTURE, _PICTURE, 3), dtype=np.uint8)


def _throughput(encode: Any) -> float:  # noqa: ANN401 - a bound encode_image
    batch = [timed_picture()] * BATCH
    encode(batch)
    shortest = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        encode(batch)
        shortest = min(shortest, time.perf_counter() - start)
    return BATCH / shortest


def main() -> int:
    """Run one probe; a TinyClipError is written to stderr as one line."""
    from tinyclip_edge.errors import TinyClipError

    request = json.loads(sys.argv[1])
    try:
        figures = measure(**request)
    except TinyClipError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
