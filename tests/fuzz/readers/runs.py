"""Run folders: events, checkpoints and configuration, as a resume and a report read them."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import torch
from driver import Reader
from hostile import HOSTILE_JSON
from model_mutations import changed_safetensors, changed_state
from mutations import changed_file, changed_json, changed_json_lines, changed_yaml, named, placed
from rich.console import Console
from torch import nn

from tinyclip_edge.config import dump_config, flatten, load_config
from tinyclip_edge.report import write_report
from tinyclip_edge.report.inheritance import inherited_map
from tinyclip_edge.report.plots import write_plots
from tinyclip_edge.report.record import RunRecord
from tinyclip_edge.report.sections import about, again, cards
from tinyclip_edge.train.checkpoint import (
    Checkpoint,
    Position,
    restore_rng,
    rng_state,
)
from tinyclip_edge.train.checkpoint_store import CheckpointStore
from tinyclip_edge.train.folder_check import resumed_config
from tinyclip_edge.train.monitoring.events import EventLog, rewind_events
from tinyclip_edge.train.run_folder import RunFolder
from tinyclip_edge.train.run_list import list_runs, removable
from tinyclip_edge.train.vocabulary import KeptTokens

STEP = 4
PLACE = f"checkpoints/{STEP:08d}"
ABOUT, STATE, WEIGHTS = (
    f"{PLACE}/{name}" for name in ("checkpoint.json", "state.pt", "student.safetensors")
)
EVENTS, CONFIG = "events.jsonl", "config.yaml"
SHARE = {"of": 4, "taken": 2, "bins": [1, 1, 0]}
INHERITED = {
    "parameters": {"image": {"copied": 5, "new": 1}, "text": {"copied": 5, "new": 1}},
    "notes": ["a"],
    "taken": {
        "embedding": SHARE,
        **{
            tower: {
                "shared": {"width": SHARE},
                "layers": [{"name": "0", "student": 0, "units": {"heads": SHARE}}],
            }
            for tower in ("image", "text")
        },
    },
}
GATES = {"hidden": 8, "heads": [2, 1], "neurons": [9, 0], "log_alpha": [1.0] * 20}


def write_events(path: Path) -> None:
    """Write an event of every kind."""
    with EventLog(path) as log:
        log.write("run_start", step=0, steps=9, teacher="t", student="s", device="cpu",
                  encoder_parameters=5, token_parameters=3, versions={"torch": "2"})  # fmt: skip
        log.write("inherit", step=0, **INHERITED)
        for who in ("teacher", "student"):
            log.write("eval", step=0, who=who, t2i_r1=0.5, zero_shot_100=0.5)
        for step in range(1, 6):
            log.write("step", step=step, stage=1 + step // 4, loss=3.0 / step, kl=None,
                      samples_per_s=9.0, data_wait=0.1, sparsity=0.1,
                      sparsity_target=0.3)  # fmt: skip
        log.write("gates", step=2, kept=0.5, image=GATES, text=GATES)
        log.write("prune", step=3, image=GATES, text=GATES)
        log.write("stage", step=3, stage=2)
        log.write("skipped", step=3)
        log.write("best", step=3, score=0.5)
        log.write("run_end", step=5, status="done", seconds=3.0, student_sha256="ab")


def work() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A student and its optimizer after a step."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def valid_run(folder: Path) -> Path:
    """A run folder, made once."""
    run = folder / "runs/run"
    if run.is_dir():
        return run
    run.mkdir(parents=True)
    config = load_config("starter")
    (run / CONFIG).write_text(dump_config(config), encoding="utf-8")
    write_events(run / EVENTS)
    model, optimizer = work()
    CheckpointStore(run / "checkpoints", 2).save(
        Checkpoint(
            Position(STEP, 0, 0, "teacher", "data", flatten(config)),
            dict(model.state_dict()),
            optimizer.state_dict(),
            None,
            rng_state(),
            stream={0: {"epoch": 0}},
        )
    )
    return run


def sign(run: Path) -> None:
    """Give checkpoint.json the digests of what stands there, so that what comes after is read."""
    path = run / ABOUT
    try:
        about = json.loads(path.read_bytes())
        for name in (STATE, WEIGHTS):
            about["files"][Path(name).name] = hashlib.sha256((run / name).read_bytes()).hexdigest()
        about.pop("sha256", None)
        about["sha256"] = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps(about))
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return  # nothing to be signed


def read_run(folder: Path, data: bytes) -> None:
    """What a report takes from a run, and what a resume does."""
    run = valid_run(folder)
    originals = {name: (run / name).read_bytes() for name in (ABOUT, EVENTS)}
    try:
        with placed(run, data) as name:
            if name.startswith(PLACE):
                sign(run)
            record = RunRecord.read(run)
            record.summary()
            record.settings  # noqa: B018
            list_run(run)
            if name == CONFIG or name.startswith(PLACE):
                resume(run)
            rewind_events(run / EVENTS, STEP)
    finally:
        for name, content in originals.items():
            if (run / name).parent.is_dir() and not (run / name).is_dir():
                (run / name).write_bytes(content)


def list_run(run: Path) -> None:
    """What ``runs`` prints and ``clean`` would delete."""
    for table in list_runs(run).tables():
        Console(file=io.StringIO()).print(table)
    removable([run.parent], checkpoints=True, features=True)


def resume(run: Path) -> None:
    """What a resume reads before its teacher is loaded, and what it takes over."""
    config = load_config(resumed_config(run))
    place = RunFolder(run, config)
    place.check(resume=True)
    place.checkpoints.recover()
    checkpoint = place.checkpoints.load_newest(lambda _: None)
    model, optimizer = work()
    checkpoint.apply(model, optimizer)
    optimizer.step()
    before = torch.get_rng_state()
    try:
        restore_rng(checkpoint.rng)
    finally:
        torch.set_rng_state(before)


def read_events(folder: Path, content: bytes) -> None:
    """What a report and a resume take of the events."""
    (folder / EVENTS).write_bytes(content)
    record = RunRecord.read(folder)
    record.summary()
    for part in (cards, about, inherited_map, again):
        part(record)
    rewind_events(folder / EVENTS, STEP)


def draw_events(folder: Path, content: bytes) -> None:
    """The page and the plots of a run."""
    (folder / EVENTS).write_bytes(content)
    write_report([folder], folder / "report.html")
    write_plots(folder / EVENTS, folder / "plots")


def read_vocabulary(folder: Path, content: bytes) -> None:
    """The tokens that a resumed run keeps."""
    (folder / "vocabulary.json").write_bytes(content)
    KeptTokens.read(folder / "vocabulary.json")


def vocabularies(folder: Path) -> list[bytes]:
    path = folder / "vocabulary.json"
    KeptTokens(vocab="corpus.txt", tokenizer="0f" * 32, ids=[0, 2, 3, 512]).save(path)
    return [path.read_bytes()]


def events(folder: Path) -> list[bytes]:
    return [(valid_run(folder) / EVENTS).read_bytes()]


def files(folder: Path) -> list[bytes]:
    run = valid_run(folder)
    return [named(name, (run / name).read_bytes()) for name in KINDS]


KINDS = {
    EVENTS: changed_json_lines,
    CONFIG: changed_yaml,
    ABOUT: changed_json,
    STATE: changed_state,
    WEIGHTS: changed_safetensors,
}
READERS = (
    Reader("run folder", files, changed_file(KINDS), read_run,
           [named(ABOUT, text) for text in HOSTILE_JSON], weight=0.3),
    Reader("events", events, changed_json_lines, read_events, HOSTILE_JSON),
    Reader("vocabulary", vocabularies, changed_json, read_vocabulary, HOSTILE_JSON, weight=0.3),
    Reader("report", events, changed_json_lines, draw_events, weight=0, most=200),
)  # fmt: skip
