"""Run a module of this project in a fresh process, with the import path of this one."""

from __future__ import annotations

import os
import sys

# ``python -m`` would search the working directory first, which may be an untrusted
# model folder with its own numpy.py.
_PROGRAM = (
    "import sys; sys.path[:] = [path for path in sys.path if path]; "
    "import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


def child_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs ``module`` as a program."""
    return [sys.executable, "-c", _PROGRAM.format(module=module), *arguments]


def child_environment() -> dict[str, str]:
    """Return the environment for it, whether the package is installed or not."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}  # noqa: PTH109
