"""The runner of all benchmarks, on toy commands: what it skips, what stops it, what it leaves."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import evidence
from evidence_jobs import JOBS, LEFT_OUT, Job
from evidence_state import HERE, Evidence, local_sources
from result_tables import TABLES


@pytest.fixture
def toy(tmp_path):
    """Three jobs, of which the first fails and the last needs the second."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "toy_figure.py").write_text("FIGURE = 1\n")
    (scripts / "toy_write.py").write_text(
        "import pathlib, sys\nfrom toy_figure import FIGURE\n"
        "out, work = map(pathlib.Path, sys.argv[1:])\n"
        "out.write_text(str(FIGURE))\n(work / 'calls').open('a').write('x')\n"
    )
    (scripts / "toy_fail.py").write_text("import sys\nsys.exit('no such thing')\n")
    (scripts / "toy_print.py").write_text("print('{\"rows\": [1]}')\n")
    write = "toy_write.py {out}/write.json {work}"
    jobs = (
        Job("fail", 1, ("fail.json",), ("toy_fail.py",)),
        Job("print", 1, ("print.json",), ("toy_print.py",), prints=True),
        Job("write", 1, ("write.json",), (write,), after=("print",)),
    )
    (tmp_path / "results").mkdir()
    return Evidence(jobs, tmp_path / "work", tmp_path / "results", scripts)


def calls(toy, name="write"):
    return len((toy.folder(toy.named(name)) / "calls").read_text())


def test_a_failed_job_does_not_stop_the_others(toy):
    assert evidence.measure(toy) == ["fail"]
    states = {job.name: toy.state(job) for job in toy.jobs}
    assert states == {"fail": "missing", "print": "done", "write": "done"}
    assert "no such thing" in (toy.folder(toy.named("fail")) / "output.txt").read_text()
    log = (toy.work / "log.txt").read_text()
    assert re.search(r"^20\d\d-.* fail +failed after .* with exit code 1", log, re.MULTILINE)
    assert re.search(r"^20\d\d-.* write +done in", log, re.MULTILINE)


def test_a_printed_result_gets_the_processor(toy):
    evidence.measure(toy, only=["print"])
    result = json.loads((toy.results / "print.json").read_text())
    assert result["rows"] == [1] and result["machine"]["cores"] == os.cpu_count()
    record = toy.records()["print"]
    assert record["inputs"] == toy.inputs(toy.named("print"))
    assert record["processor"].startswith(result["machine"]["cpu"])


def test_a_job_is_run_again_only_with_other_inputs(toy):
    evidence.measure(toy, only=["write"])
    assert calls(toy) == 1
    evidence.measure(toy, only=["write"])
    assert calls(toy) == 1
    # The script imports it; another size, since Python may keep bytecode of the same second.
    (toy.scripts / "toy_figure.py").write_text("FIGURE = 1 + 1\n")
    assert toy.state(toy.named("write")) == "outdated"
    assert toy.state(toy.named("print")) == "done"
    evidence.measure(toy, only=["write"])
    assert (toy.results / "write.json").read_text() == "2" and calls(toy) == 1


def test_again_starts_from_nothing(toy):
    evidence.measure(toy, only=["write"])
    (toy.folder(toy.named("write")) / "kept").touch()
    assert evidence.measure(toy, again=["write"]) == []
    assert calls(toy) == 1 and not (toy.folder(toy.named("write")) / "kept").exists()


def test_what_a_job_needs_is_run_before_it(toy):
    assert [job.name for job in toy.plan(["write"], [])] == ["print", "write"]
    evidence.measure(toy, only=["write"])
    assert toy.plan(["write"], []) == []
    (toy.results / "write.json").unlink()
    assert [job.name for job in toy.plan(["write"], [])] == ["write"]


def test_a_job_fails_without_what_it_needs(toy):
    (toy.scripts / "toy_print.py").write_text("raise SystemExit(3)\n")
    assert evidence.measure(toy, only=["write"]) == ["print", "write"]
    assert "failed: it needs print" in (toy.work / "log.txt").read_text()


def test_no_job_is_started_when_the_time_is_over(toy):
    assert evidence.measure(toy, minutes=0) == []
    assert not list(toy.results.iterdir())


CALL = """
import signal, sys
from pathlib import Path
import evidence
from evidence_jobs import Job
from evidence_state import Evidence
folder = Path(sys.argv[1])
job = Job("wait", 1, ("wait.json",), ("toy_wait.py {work} {out}/wait.json",))
toy = Evidence((job,), folder / "work", folder / "results", folder / "scripts")
signal.signal(signal.SIGTERM, evidence.interrupt)
try:
    sys.exit(len(evidence.measure(toy)))
except KeyboardInterrupt:
    sys.exit(130)
"""
# Ends on the second call; the first one waits until it is ended.
WAIT = """
import os, sys, time
from pathlib import Path
work, out = map(Path, sys.argv[1:])
if (work / "kept").exists():
    out.write_text("{}")
    sys.exit()
(work / "kept").write_text(str(os.getpid()))
time.sleep(600)
"""


@pytest.fixture
def waiting(toy):
    """A call whose job waits, with the process of that job."""
    (toy.scripts / "toy_wait.py").write_text(WAIT)
    folder = toy.work.parent
    process = subprocess.Popen(
        [sys.executable, "-c", CALL, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
    )
    for _ in range(3000):
        if written := [file for file in toy.work.glob("wait-*/kept") if file.read_text()]:
            break
        assert process.poll() is None
        time.sleep(0.01)
    job = int(written[0].read_text())
    yield process, job, folder
    for number in (process.pid, job):
        if alive(number):
            os.kill(number, signal.SIGKILL)
    process.wait()


def alive(number):
    try:
        return "State:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except FileNotFoundError:
        return False


def again(folder):
    return subprocess.run(
        [sys.executable, "-c", CALL, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_call_ends_its_job_and_goes_on_later(waiting, number):
    process, job, folder = waiting
    process.send_signal(number)
    assert process.wait() == 130
    assert not alive(job)
    assert "interrupted after" in (folder / "work/log.txt").read_text()
    assert not (folder / "results/wait.json").exists()
    second = again(folder)
    assert (second.returncode, (folder / "results/wait.json").read_text()) == (0, "{}")


def test_no_second_job_runs_beside_that_of_a_killed_call(waiting):
    process, job, folder = waiting
    process.kill()
    process.wait()
    assert alive(job)
    second = again(folder)
    assert second.returncode == 1 and "a job of another call is running" in second.stderr
    os.kill(job, signal.SIGKILL)
    while alive(job):
        time.sleep(0.01)
    assert again(folder).returncode == 0


def test_sources_are_the_script_and_what_it_imports():
    names = {path.name for path in local_sources(HERE / "unpaired.py")}
    assert names == {"unpaired.py", "arms.py", "kept_runs.py"}


def test_every_benchmark_is_a_job_or_left_out_with_a_reason():
    programs = {
        path.name for path in HERE.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")
    }
    named = " ".join([*(command for job in JOBS for command in job.commands), *LEFT_OUT])
    helpers = {"evidence.py", "avx2_onnxruntime.py", "natural_data.py", "natural_claims.py",
               "peer_convert.py", "peer_worker.py"}  # fmt: skip
    missing = {name for name in programs - helpers if not re.search(rf"\b{name}", named)}
    assert missing == set(), "name it in benchmarks/evidence_jobs.py"


def test_every_job_has_the_options_it_is_called_with():
    for job in JOBS:
        for command in job.commands:
            places = dict.fromkeys(["work", "out", "starter", *job.after], "folder")
            words = [word.format(**places) for word in shlex.split(command)]
            if not words[0].endswith(".py"):
                continue
            source = "".join(path.read_text() for path in local_sources(HERE / words[0]))
            for word in words[1:]:
                assert not word.startswith("--") or f'"{word}"' in source, command


def test_every_result_of_a_job_is_one_of_a_table():
    used = {name for table in TABLES.values() for name in table.files}
    written = {name for job in JOBS for name in job.results if name.endswith(".json")}
    assert written - used == set()


def test_long_arms_differ_from_the_short_ones_in_steps_alone():
    jobs = {job.name: job for job in JOBS}
    for name in ("arms-15", "arms-50"):
        short, long = (jobs[each].commands[0] for each in (name, f"{name}-long"))
        long = long.replace("--steps 4000 --every 500", "").replace(f"{name}-long", name)
        assert shlex.split(short) == shlex.split(long)


def test_arms_that_are_compared_have_three_seeds():
    comparisons = ("arms", "half", "quarter", "starter-ablation", "loss-options", "unpaired",
                   "teacher-fusion", "domain-importance", "mapped", "family-worth", "shipped",
                   "equal-time", "no-layer-drop", "selection")  # fmt: skip
    for job in JOBS:
        if job.name.startswith(comparisons):
            assert "--seeds 0 1 2" in " ".join(job.commands), job.name
