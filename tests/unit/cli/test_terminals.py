"""Terminals that know ASCII alone, and names that no terminal should be given as they are."""

import io
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

from tinyclip_edge.cli import app, options
from tinyclip_edge.train.monitoring.progress import ProgressObserver


def run(monkeypatch, *arguments, encoding="ascii"):
    """Return what the command line writes to both streams, and its exit code."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.setattr(sys, "argv", ["tinyclip-edge", *arguments])
    with pytest.raises(SystemExit) as ended:
        app.main()
    written = []
    for stream in streams:
        stream.flush()
        written.append(stream.buffer.getvalue().decode(encoding))
    return (*written, ended.value.code)


def test_a_table_reaches_a_terminal_that_knows_ascii_alone(monkeypatch):
    out, _, code = run(monkeypatch, "models")
    assert code == 0
    assert "TinyCLIP-ViT-40M-32-Text-19M" in out


@pytest.mark.skipif(sys.platform == "win32", reason="it has no pseudo terminals")
def test_colours_are_left_out_where_the_user_wants_none(monkeypatch):
    script = (
        "from tinyclip_edge.notebook import report_table\n"
        "from tinyclip_edge.cli.options import print_tables, progress_console\n"
        "table = report_table('title', ['figure']); table.add_row('name', '1 [dim]2[/]')\n"
        "print_tables([table]); progress_console().print('[red]bar[/]')"
    )
    coloured = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9\d|10\d)[;m]")

    def written(**variables):
        ours, theirs = os.openpty()
        env = {**os.environ, "TERM": "xterm-256color", **variables}
        subprocess.run([sys.executable, "-c", script], stdout=theirs, stderr=theirs, env=env,
                       check=True)  # fmt: skip
        text = os.read(ours, 65_536).decode()
        os.close(ours)
        os.close(theirs)
        return text

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert coloured.search(written())
    text = written(NO_COLOR="1")
    assert "name" in text and "bar" in text and not coloured.search(text)


def test_progress_and_bars_reach_it_too(monkeypatch):
    def command():
        options.say("text→image 55.1 ± 1.3")
        with ProgressObserver(Console(stderr=True, force_terminal=True)) as observer:
            observer.on_message("häßlich → \ud800")

    monkeypatch.setattr(app, "app", lambda: (command(), sys.exit(0)))
    _, err, code = run(monkeypatch)
    assert code == 0
    assert err.splitlines()[0] == "text\\u2192image 55.1 \\xb1 1.3"
    assert "h\\xe4\\xdflich \\u2192 \\ud800" in err


def test_an_error_is_one_short_line_whatever_name_it_quotes(monkeypatch):
    name = "a\nb\x1b[2J\udcff" + "x" * 100_000 + ".yaml"
    _, err, code = run(monkeypatch, "distill", name, encoding="utf-8")
    assert code == 2
    assert err.count("\n") == 1 and err.endswith("\n") and len(err) < 600
    assert err.startswith("error: configuration a\\nb\\x1b[2J\\udcffxxx")


def test_what_the_disk_refuses_is_no_traceback(monkeypatch, tmp_path):
    _, err, code = run(monkeypatch, "report", str(tmp_path / ("x" * 300)))
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1


def test_passwords_of_addresses_are_not_repeated(monkeypatch):
    address = "http://me:secret@host/a.tar?token=hidden"
    for command in ("eval", "bench", "export"):
        more = ["--data", address] if command == "eval" else []
        _, err, code = run(monkeypatch, command, address, *more)
        assert code == 2
        assert "secret" not in err and "hidden" not in err and err.startswith("error: ")
    _, err, code = run(monkeypatch, "distill", "starter", f"optim.steps={address}")
    assert "secret" not in err and "http://...@host/a.tar?..." in err.replace("\\u2026", "...")
