"""Install and test with the oldest and the newest versions that pyproject.toml admits.

``make matrix`` runs every leg, ``make matrix LEGS="newest-3.14-all lowest-3.10-base"`` two of them.
Legs run one after another, each in a temporary folder and against the built wheel: the help of
every command, then the tests in TESTS.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KIT = "tinyclip_starter"
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
PYTHONS = ("3.10", "3.14")
TESTS = {"base": ("tests/unit/runtime", "tests/unit/collection"), "all": ("tests/unit",)}
# Those of these tests that need an extra; base legs leave them out.
EXTRA_TESTS = (
    "tests/unit/collection/test_embedding.py",
    "tests/unit/collection/test_videos.py",
    "tests/unit/runtime/test_graph.py",
    "tests/unit/runtime/test_index_export.py",
)
# Packages that the tests import in addition: the newest that fit the leg's versions.
TOOLS = {
    "base": [
        "pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "onnx", "sqlite-vec",
        "pysqlite3; sys_platform == 'linux'",
    ],
    "all": ["psutil", "tensorboard", "scikit-learn", "resvg-py"],
}  # fmt: skip
EXTRAS = {"base": (), "all": ("all", "lancedb", "qdrant")}
FREE_GB = 15  # for a leg with torch's CUDA build, including the cache of its wheels
COMMANDS = (
    "from tinyclip_edge.cli.app import app; print(*(c.name for c in app.registered_commands))"
)


@dataclass(frozen=True, slots=True)
class Leg:
    """One environment: which versions, which Python, base or all extras."""

    resolution: str
    python: str
    extras: str

    @property
    def name(self) -> str:
        """The name of the leg on the command line, such as ``newest-3.14-all``."""
        return f"{self.resolution}-{self.python}-{self.extras}"


LEGS = [
    Leg(resolution, python, extras)
    for extras in TESTS
    for python in PYTHONS
    for resolution in RESOLUTIONS
]


class LegError(Exception):
    """A step of a leg failed; the message names it."""


def run(step: str, command: Sequence[str | Path], *, env: dict[str, str] | None = None) -> str:
    """Run a command in the repository; return its output, or raise LegError after printing it."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.stdout.write(done.stdout[-20_000:] + done.stderr[-20_000:])
        raise LegError(step)
    return done.stdout


def install(leg: Leg, uv: str, folder: Path) -> Path:
    """Install a leg into ``folder``; return the folder of its programs."""
    versions, environment = folder / "versions.txt", folder / "venv"
    extras = [f"--extra={name}" for name in EXTRAS[leg.extras]]
    # Only versions that have a wheel for this Python: numpy 1.26 was never built for 3.14.
    run("resolve", [
        uv, "pip", "compile", "pyproject.toml", *extras, "--no-header", "--no-annotate",
        "--resolution", RESOLUTIONS[leg.resolution], "--python-version", leg.python,
        "--only-binary", ":all:", "--no-binary", "tinyclip-starter",
        "--no-emit-package", "tinyclip-starter", "--output-file", versions,
    ])  # fmt: skip
    run("environment", [uv, "venv", "--python", leg.python, environment])
    pip = [uv, "pip", "install", "--python", environment]
    run("install", [*pip, "--requirements", versions])
    ours = [".", f"./{KIT}"] if leg.extras == "all" else ["."]
    run("build", [*pip, "--no-deps", *ours])
    tools = TOOLS["base"] + (TOOLS["all"] if leg.extras == "all" else [])
    run("tools", [*pip, "--constraints", versions, *tools])
    return environment / ("Scripts" if os.name == "nt" else "bin")


def test(leg: Leg, programs: Path, workers: str) -> str:
    """Run a leg's checks in its environment; return pytest's last line."""
    # Without PYTHONPATH, so that the imports come from the wheel.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    names = run("commands", [programs / "python", "-c", COMMANDS], env=env).split()
    for name in names:
        run(f"{name} --help", [programs / "tinyclip-edge", name, "--help"], env=env)
    folders = TESTS[leg.extras]
    left_out = [f"--ignore={path}" for path in EXTRA_TESTS if leg.extras == "base"]
    output = run(" ".join(folders), [
        programs / "pytest", *folders, *left_out, "-m", "not slow and not hours and not gpu", "-q",
        "-p", "no:cacheprovider",
        f"--numprocesses={workers}", "--dist=loadfile",
    ], env=env)  # fmt: skip
    return f"{len(names)} commands, {output.strip().splitlines()[-1].strip('= ')}"


def main() -> int:
    """Run the named legs, or all; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    known = {leg.name: leg for leg in LEGS}
    parser.add_argument("legs", nargs="*", metavar="LEG", help=f"one of {', '.join(known)}")
    parser.add_argument("--uv", default=shutil.which("uv") or "uv")
    parser.add_argument("--workers", default="2", help="worker processes of pytest")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.legs) - set(known)):
        parser.error(f"no leg {unknown[0]}; known: {', '.join(known)}")
    failed = False
    for leg in [known[name] for name in arguments.legs] or LEGS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="tinyclip-matrix-") as folder:
            if leg.extras == "all" and shutil.disk_usage(folder).free < FREE_GB * 1e9:
                sys.stdout.write(f"{leg.name}: not run, under {FREE_GB} GB free in {folder}\n")
                failed = True
                continue
            try:
                programs = install(leg, arguments.uv, Path(folder))
                result = test(leg, programs, arguments.workers)
            except LegError as error:
                failed, result = True, f"FAILED: {error}"
        result = re.sub(r" in [\d.]+s.*$", "", result)
        sys.stdout.write(f"{leg.name}: {result}, {time.monotonic() - started:.0f} s\n")
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
