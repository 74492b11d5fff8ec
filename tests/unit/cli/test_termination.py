"""SIGTERM ends a command in order: nothing that it worked in stays behind."""

import os
import signal
import tempfile
import threading
import time
import weakref

import pytest

from tinyclip_edge.aside import work_folder
from tinyclip_edge.cli import app, termination
from tinyclip_edge.cli.termination import orderly_end


@pytest.fixture(autouse=True)
def default_actions():
    """A process that ends keeps its handlers; this one goes on."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in termination.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(1)  # a handler runs before this ends


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_command_ends_with_its_code_and_leaves_nothing(
    monkeypatch, capfd, tmp_path, number, code
):
    def command():
        with work_folder(tmp_path / "target"), tempfile.TemporaryDirectory(dir=tmp_path):
            assert len(list(tmp_path.iterdir())) == 2
            send(number)

    monkeypatch.setattr(app, "app", command)
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == code
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == f"ended by {signal.Signals(number).name}\n"


def test_what_the_signal_became_on_its_way_is_no_error_of_the_command(monkeypatch, capfd):
    def command():
        try:
            send(signal.SIGTERM)
        except SystemExit as stop:  # as the machinery of extension modules does
            raise ImportError("initialization failed") from stop

    monkeypatch.setattr(app, "app", command)
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == 143
    assert capfd.readouterr().err == "ended by SIGTERM\n"


def test_a_signal_in_a_callback_of_a_weakref_is_not_lost(monkeypatch, capfd):
    """Python drops what such a callback raises."""

    class Thing:
        pass

    def command():
        thing = Thing()
        reference = weakref.ref(thing, lambda _: send(signal.SIGTERM))
        del thing
        assert reference() is None
        for _ in range(100):
            time.sleep(0.1)
        pytest.fail("the command went on")

    monkeypatch.setattr(app, "app", command)
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == 143
    assert capfd.readouterr().err == "ended by SIGTERM\n"


def test_a_second_signal_does_not_disturb_the_first(tmp_path):
    with pytest.raises(SystemExit), orderly_end():
        try:
            send(signal.SIGTERM)
        finally:
            send(signal.SIGTERM)
            (tmp_path / "cleared").touch()
    assert (tmp_path / "cleared").exists()


def test_a_late_one_ends_the_process_at_once(monkeypatch):
    monkeypatch.setattr(termination, "PATIENCE", 0)
    child = os.fork()
    if child == 0:
        with orderly_end():
            try:
                send(signal.SIGTERM)
            finally:
                send(signal.SIGTERM)
                os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_signals_that_are_ignored_or_handled_stay_so():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    handled = []
    signal.signal(signal.SIGTERM, lambda number, frame: handled.append(number))
    with orderly_end():
        send(signal.SIGHUP)
        send(signal.SIGTERM)
    assert handled == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_afterwards_and_in_other_threads_all_is_as_before():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with orderly_end():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    inside = []

    def other():
        with orderly_end():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert inside == [signal.SIG_DFL]
