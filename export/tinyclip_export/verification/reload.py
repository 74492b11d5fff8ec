"""Open a finished bundle in a fresh process and replay its golden vectors.

The module is also that process's main program; it loads only EdgeCLIP, no torch and no onnx, and
for files of another engine that.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tinyclip_edge.child import ChildError, run_child

TIMEOUT = 300  # seconds


def replay_in_child(folder: Path, precision: str, engine: str | None = None) -> dict[str, Any]:
    """Replay in a child process; return ``{"cosine": …}`` or ``{"error": one line}``.

    With an engine, its files are replayed.
    """
    arguments = [str(folder), precision, *([engine] if engine else [])]
    try:
        result: dict[str, Any] = run_child(__name__, *arguments, timeout=TIMEOUT)
    except ChildError as error:
        return {"error": str(error)}
    return result


def main(arguments: list[str]) -> int:
    """Print the cosine of the replay as JSON, on the last line: engines print too."""
    folder, precision, *engine = arguments
    if engine:
        from tinyclip_export.engines.replay import replay_engine as replay
    else:
        from tinyclip_edge.runtime.replay import replay
    sys.stdout.write(json.dumps({"cosine": replay(Path(folder), precision).min_cosine}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
