"""Open a finished bundle in a fresh process and replay its golden vectors.

The module is also that process's main program; it loads only EdgeCLIP, no torch and no onnx.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyclip_edge.child import ChildError, run_child
from tinyclip_edge.runtime.golden import Replay
from tinyclip_edge.runtime.replay import replay

TIMEOUT = 300  # seconds


def replay_in_child(folder: Path, precision: str, program: str = __name__) -> dict[str, Any]:
    """Replay in a child process; return ``{"cosine": …}`` or ``{"error": one line}``.

    ``program``: module whose main program replays, for files of another form.
    """
    try:
        result: dict[str, Any] = run_child(program, str(folder), precision, timeout=TIMEOUT)
    except ChildError as error:
        return {"error": str(error)}
    return result


def main(arguments: list[str], replay: Callable[[Path, str], Replay] = replay) -> int:
    """Print the cosine of the replay as JSON on the last line, because engines print too."""
    folder, precision = arguments
    sys.stdout.write(json.dumps({"cosine": replay(Path(folder), precision).min_cosine}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
