"""events.jsonl, progress on stderr, signals."""

import io
import json
import os
import signal
import threading

import pytest
from rich.console import Console

from tinyclip_edge import run_events
from tinyclip_edge.errors import DataError
from tinyclip_edge.report.record import RunRecord
from tinyclip_edge.train import ProgressObserver, StepReport, read_events
from tinyclip_edge.train.monitoring.events import EventLog, rewind_events
from tinyclip_edge.train.signals import StopSignal


@pytest.fixture
def events(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.write("run_start", step=0)
        for step in range(1, 5):
            log.write("step", step=step, loss=float(step))
        log.write("eval", step=4, who="student")
    return path


def test_events_are_one_json_object_a_line(events):
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["run_start", *["step"] * 4, "eval"]
    assert lines[2] == {"kind": "step", "step": 2, "loss": 2.0}


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    with EventLog(tmp_path / "e.jsonl") as log:
        log.write("step", step=1, loss=float("nan"), inner={"x": float("inf"), "y": 1.5})
    assert read_events(tmp_path / "e.jsonl") == [
        {"kind": "step", "step": 1, "loss": None, "inner": {"x": None, "y": 1.5}}
    ]


def test_a_resumed_run_forgets_what_it_will_log_again(events):
    with events.open("a") as file:
        file.write('{"kind": "step", "st')  # the process was killed here
    rewind_events(events, 2)
    remaining = read_events(events)
    assert [event["kind"] for event in remaining] == ["run_start", "step", "step"]
    rewind_events(events.with_name("none.jsonl"), 2)


def test_a_run_resumed_at_step_0_does_step_0_again(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.write("run_start", step=0)
        log.write("eval", step=0, who="teacher")
        log.write("checkpoint", step=0)
        log.write("step", step=1)
    rewind_events(path, 0)
    assert [event["kind"] for event in read_events(path)] == ["run_start"]


DAMAGED = [b"5", b"{}", b'{"kind":"step"}', b'{"kind": "eval", "step": "x"}', b"\xff", b"[" * 5000,
           b'{"kind": "\\ud800", "step": 1}', b'{"kind": "step", "step": 1e400}']  # fmt: skip


def test_damaged_lines_are_set_aside_and_named(events):
    lines = events.read_bytes().splitlines()
    events.write_bytes(b"\n".join([lines[0], *DAMAGED, *lines[1:], b'{"kind": "st']))
    assert [event["kind"] for event in read_events(events)] == ["run_start", *["step"] * 4, "eval"]
    messages = []
    rewind_events(events, 4, messages.append)
    assert events.read_bytes().splitlines() == lines
    assert events.with_name("events.jsonl.damaged").read_bytes().splitlines() == DAMAGED
    assert len(messages) == 1
    assert (
        "8 damaged lines, the first at line 2; they were moved to events.jsonl.damaged"
        in messages[0]
    )
    rewind_events(events, 4, messages.append)
    assert len(messages) == 1


def test_events_of_any_number_are_resumed_but_not_all_are_reported(events, monkeypatch):
    before = events.read_bytes()
    monkeypatch.setattr(run_events, "EVENT_VALUES", 20)
    with pytest.raises(DataError, match=r"events\.jsonl has more than 20 values; raise"):
        RunRecord.read(events.parent)
    rewind_events(events, 4)
    assert events.read_bytes() == before


def report(step, steps=200):
    values = {"loss": 2.5, "kl": 0.125}
    return StepReport(step, steps, values, lr=1e-3, samples_per_s=321.4, data_wait=0.0)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_loss_kl_speed_and_remaining_time(terminal):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=140, color_system=None)
    with ProgressObserver(console) as observer:
        observer.on_message("reading [x]")
        observer.on_eval(0, "teacher", {"t2i_r1": 0.5, "i2t_r1": 0.25, "zero_shot_100": 0.75})
        for step in range(1, 101):
            observer.on_step(report(step))
    text = stream.getvalue()
    assert "reading [x]" in text
    assert "teacher: text to image R@1 50.0%, zero-shot 25.0%, of 100 75.0%" in text
    for part in ("loss 2.500", "KL to teacher 0.125", "321 samples/s", "100/200"):
        assert part in text
    assert ("eta" in text) is terminal
    if not terminal:
        assert text.count("samples/s") == 5  # a line for every tenth of the run


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_a_second_ctrl_c_is_the_shells(first):
    before, interrupt = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        assert not stop.received
        os.kill(os.getpid(), first)
        assert stop.received
        assert signal.getsignal(signal.SIGINT) is interrupt
        os.kill(os.getpid(), signal.SIGTERM)  # timeout(1) sends it twice
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGINT) is interrupt


def test_outside_the_main_thread_signals_are_untouched():
    def inside():
        with StopSignal() as stop:
            results.append(stop.received)

    results = []
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert results == [False]
