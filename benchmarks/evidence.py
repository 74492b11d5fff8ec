"""Repeat the measurements that two cores can do (``make evidence``) and write the tables.

A job is skipped if its results exist and its inputs have not changed since its last run: its
commands, the source of its benchmark, the starter's recipes and the teacher's weights. Changes of
the package do not count; name the jobs that they affect with ``--again``. Finished runs are kept in
``runs/evidence``, so an interrupted call continues where it stopped. Results are replaced only when
a job has succeeded.

    python benchmarks/evidence.py --minutes 480
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

from evidence_jobs import JOBS, LEFT_OUT, Job
from evidence_state import ROOT, Evidence
from machine import machine_facts
from result_tables import filled_pages
from tinyclip_edge.starter import teacher_path
from tinyclip_edge.units import duration

PATIENCE = 30.0  # seconds within which an interrupted job must end


def run(evidence: Evidence, job: Job, lock: IO[str]) -> int:
    """Run the commands of a job and store its results; return the first bad exit code, or 0."""
    folder = evidence.folder(job)
    if job.prints:  # nothing of an earlier attempt can be reused
        shutil.rmtree(folder, ignore_errors=True)
    out = folder / "results"
    out.mkdir(parents=True, exist_ok=True)
    places = {name: evidence.folder(evidence.named(name)) for name in job.after}
    machine = machine_facts()
    began = time.monotonic()
    for command in job.commands:
        words = [word.format(work=folder, out=out, starter=teacher_path(), **places)
                 for word in shlex.split(command)]  # fmt: skip
        printed = out / job.results[0] if job.prints else None
        code = call(executable(words, evidence.scripts), folder, printed, lock, evidence.scripts)
        if code:
            return code
    if job.prints:
        add_machine(out / job.results[0], machine)
    for name in job.results:
        shutil.copyfile(out / name, evidence.results / name)
    evidence.record(job, {
        "ended": now(),
        "took": duration(time.monotonic() - began),
        "processor": f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']}",
    })  # fmt: skip
    return 0


def executable(words: list[str], scripts: Path) -> list[str]:
    """Return the command line of a job's command."""
    if words[0] == "cp":
        return words
    return [sys.executable, *([] if words[0] == "-m" else [str(scripts / words.pop(0))]), *words]


def call(
    command: list[str], folder: Path, printed: Path | None, lock: IO[str], scripts: Path
) -> int:
    """Run a command whose output goes to a file; end it when this process is interrupted.

    With ``printed`` it runs in the job's folder and its standard output goes there.
    """
    paths = [str(scripts), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    output = folder / "output.txt"
    with output.open("a") as log, (printed or output).open("w" if printed else "a") as stdout:
        process = subprocess.Popen(
            command, cwd=folder if printed else ROOT, env=environment, stdout=stdout, stderr=log,
            start_new_session=True,
            # The job inherits the lock, so that no other one starts if only this call is killed.
            pass_fds=(lock.fileno(),),
        )  # fmt: skip
        try:
            return process.wait()
        except BaseException:
            end(process)
            raise


def end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a job with all its processes, and kill those that do not end."""
    for number, seconds in ((signal.SIGINT, PATIENCE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def add_machine(path: Path, machine: dict[str, Any]) -> None:
    content = {"machine": machine, **json.loads(path.read_text(encoding="utf-8"))}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")


@contextmanager
def locked(work: Path) -> Iterator[IO[str]]:
    """Hold the lock of a folder of jobs; raise SystemExit while another call runs one."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"a job of another call is running, see {work / 'log.txt'}") from None
        yield lock


def measure(
    evidence: Evidence,
    *,
    only: Sequence[str] = (),
    again: Sequence[str] = (),
    minutes: float | None = None,
) -> list[str]:
    """Run the jobs that are not done, one after another; return the names of those that failed."""
    began = time.monotonic()
    failed = []
    with locked(evidence.work) as lock, (evidence.work / "log.txt").open("a") as log:

        def say(name: str, state: str) -> None:
            for file in (sys.stdout, log):
                print(f"{now()}  {name:24} {state}", file=file, flush=True)

        jobs = evidence.plan(only, again)
        say("evidence", f"{len(jobs)} of {len(evidence.jobs)} jobs to run, on {processor()}")
        for job in jobs:
            if minutes is not None and time.monotonic() - began >= 60 * minutes:
                say(job.name, "not started: the time is over")
                continue
            if lacking := evidence.lacking(job):
                failed.append(job.name)
                say(job.name, f"failed: it needs {', '.join(lacking)} first")
                continue
            if job.name in again:
                shutil.rmtree(evidence.folder(job), ignore_errors=True)
            say(job.name, f"started, about {duration(60 * job.minutes)}")
            start = time.monotonic()
            try:
                code = run(evidence, job, lock)
            except KeyboardInterrupt:
                say(job.name, f"interrupted after {duration(time.monotonic() - start)}")
                raise
            took = duration(time.monotonic() - start)
            if code:
                failed.append(job.name)
                output = evidence.folder(job) / "output.txt"
                say(job.name, f"failed after {took} with exit code {code}, see {output}")
            else:
                say(job.name, f"done in {took}")
    return failed


def processor() -> str:
    machine = machine_facts()
    return f"{machine['cpu']} ({', '.join(machine['flags'])}), {machine['cores']} cores"


def write_tables() -> None:
    for path, text in filled_pages():
        path.write_text(text, encoding="utf-8")


def print_jobs(evidence: Evidence) -> None:
    print(f"{processor()}\n")
    for job in evidence.jobs:
        minutes = duration(60 * job.minutes)
        print(f"{job.name:24} {evidence.state(job):9} {minutes:>10}  {', '.join(job.results)}")
    print("\nleft out, because they need:")
    for name, reason in LEFT_OUT.items():
        print(f"{name}: {reason}")


def main() -> None:
    names = [job.name for job in JOBS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], choices=names, metavar="NAME")
    parser.add_argument(
        "--again", nargs="+", default=[], choices=names, metavar="NAME",
        help="run these from the start even if they are done",
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, help="start no more jobs after this time")
    parser.add_argument("--list", action="store_true", help="print the jobs and their states")
    options = parser.parse_args()
    evidence = Evidence()
    if options.list:
        print_jobs(evidence)
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        failed = measure(evidence, only=options.only, again=options.again, minutes=options.minutes)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        write_tables()
    sys.exit(1 if failed else 0)


def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
