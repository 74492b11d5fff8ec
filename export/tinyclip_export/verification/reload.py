"""Open a finished bundle in a fresh process and replay its golden vectors.

The module is also that process's main program; it loads only EdgeCLIP, no torch and no onnx.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tinyclip_edge.child import child_command, child_environment

TIMEOUT = 300  # seconds


def min_cosine(folder: Path, precision: str) -> float:
    """Return the minimum cosine between the golden embeddings and those of EdgeCLIP.

    Raises a TinyClipError when the bundle cannot be opened.
    """
    from tinyclip_edge.runtime.replay import replay

    result = replay(folder, precision)
    return min(result.image_cosine, result.text_cosine)


def replay_in_child(folder: Path, precision: str, engine: str | None = None) -> dict[str, Any]:
    """Replay in a child process; return ``{"cosine": …}`` or ``{"error": one line}``.

    With an engine, its files are replayed.
    """
    module = "tinyclip_export.verification.reload"
    if engine is not None:
        module = "tinyclip_export.engines.replay"
    command = child_command(module, str(folder), precision)
    try:
        child = subprocess.run(
            command,
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no result within {TIMEOUT} seconds"}
    if child.returncode != 0:
        lines = child.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"process ended with {child.returncode}"}
    result: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return result


def main(arguments: list[str]) -> int:
    """Print the cosine of the replay as JSON."""
    folder, precision = arguments
    sys.stdout.write(json.dumps({"cosine": min_cosine(Path(folder), precision)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
