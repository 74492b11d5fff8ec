"""What the jobs of ``make evidence`` depend on, and which are done."""

from __future__ import annotations

import ast
import hashlib
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evidence_jobs import JOBS, Job
from result_tables.table import RESULTS
from tinyclip_edge.starter import teacher_path

HERE = Path(__file__).parent
ROOT = HERE.parent
STATES = "evidence.json"  # the last run of each job: its inputs, time and processor


def local_sources(script: Path) -> list[Path]:
    """Return a benchmark and the modules of this folder that it imports, directly or not."""
    found: dict[Path, None] = {}
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = None
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        files = (script.parent / f"{name.replace('.', '/')}.py" for name in names)
        waiting += [file for file in files if file.is_file()]
    return sorted(found)


@dataclass(frozen=True)
class Evidence:
    """Jobs with their folders, results and last runs."""

    jobs: Sequence[Job] = JOBS
    work: Path = ROOT / "runs/evidence"
    results: Path = RESULTS
    scripts: Path = HERE

    @cached_property
    def _shared_inputs(self) -> bytes:
        recipes = sorted((ROOT / "configs/runs").glob("starter*.yaml"))
        files = (*recipes, teacher_path() / "open_clip_model.safetensors")
        return b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)

    def inputs(self, job: Job) -> str:
        """Return a short hash of everything on which a job's figures depend."""
        digest = hashlib.sha256(self._shared_inputs)
        for command in job.commands:
            digest.update(command.encode())
            words = shlex.split(command)
            name = f"{words[1].replace('.', '/')}.py" if words[0] == "-m" else words[0]
            if (self.scripts / name).is_file():
                for source in local_sources(self.scripts / name):
                    digest.update(source.read_bytes())
        for name in job.after:
            digest.update(self.inputs(self.named(name)).encode())
        return digest.hexdigest()[:8]

    def named(self, name: str) -> Job:
        return next(job for job in self.jobs if job.name == name)

    def folder(self, job: Job) -> Path:
        """Return the folder of a job's runs, which depends on its inputs."""
        return self.work / f"{job.name}-{self.inputs(job)}"

    def records(self) -> dict[str, dict[str, str]]:
        """Return the records of the last run of each job."""
        path = self.results / STATES
        if not path.exists():
            return {}
        stored: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
        return stored

    def record(self, job: Job, about: dict[str, str]) -> None:
        """Store the record of a job's last run, with its inputs."""
        records = self.records() | {job.name: {"inputs": self.inputs(job), **about}}
        text = json.dumps(dict(sorted(records.items())), indent=1) + "\n"
        (self.results / STATES).write_text(text, encoding="utf-8")

    def state(self, job: Job) -> str:
        """Return done, outdated (results of other or unknown inputs) or missing."""
        if not all((self.results / name).is_file() for name in job.results):
            return "missing"
        last = self.records().get(job.name, {})
        return "done" if last.get("inputs") == self.inputs(job) else "outdated"

    def lacking(self, job: Job) -> list[str]:
        """Return the jobs that a job needs and that are not done or have no folder."""
        return [
            name
            for name in job.after
            if self.state(needed := self.named(name)) != "done" or not self.folder(needed).exists()
        ]

    def plan(self, only: Iterable[str], again: Iterable[str]) -> list[Job]:
        """Return the jobs to run: those that are not done, ``again``, and the jobs they need."""
        wanted = {*only, *again} or {job.name for job in self.jobs}
        names = {
            job.name
            for job in self.jobs
            if job.name in wanted and (job.name in again or self.state(job) != "done")
        }
        needed = {lack for job in self.jobs if job.name in names for lack in self.lacking(job)}
        return [job for job in self.jobs if job.name in names | needed]
