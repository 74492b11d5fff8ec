"""Run a module of this project in a fresh process, with the import path of this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

# ``python -m`` would search the working directory first, which may be an untrusted
# model folder with its own numpy.py.
_PROGRAM = (
    "import sys; sys.path[:] = [path for path in sys.path if path]; "
    "import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


class ChildError(Exception):
    """A process ended without a result; the message is its last line or its exit code."""


class ChildTimeoutError(ChildError):
    """A process was stopped because it ran out of time."""


def run_child(module: str, *arguments: str, timeout: float) -> Any:  # noqa: ANN401 - JSON
    """Run ``module`` as a program; return the JSON on the last line of its output.

    Raises ChildTimeoutError after ``timeout`` seconds, ChildError for an exit code other than 0.
    """
    try:
        process = subprocess.run(
            child_command(module, *arguments),
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ChildTimeoutError(f"no result within {timeout:g} seconds") from None
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines()
        raise ChildError(lines[-1] if lines else f"process ended with {process.returncode}")
    return json.loads(process.stdout.splitlines()[-1])


def child_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs ``module`` as a program."""
    return [sys.executable, "-c", _PROGRAM.format(module=module), *arguments]


def child_environment() -> dict[str, str]:
    """Return the environment for such a program, whether the package is installed or not."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}  # noqa: PTH109
