"""``tinyclip-edge serve``, started as a process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

COMMAND = [sys.executable, "-m", "tinyclip_edge", "serve"]


def answer(address, body=None, **headers):
    content = None if body is None else json.dumps(body).encode()
    headers["content-type"] = "application/json"
    request = urllib.request.Request(address, content, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())


ENDS = {
    signal.SIGTERM: (143, "ended by SIGTERM\n"),
    signal.SIGINT: (
        130, "interrupted; requests under way were answered; the same command serves again\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("number", ENDS)
@pytest.mark.skipif(sys.platform == "win32", reason="signals of Windows differ")
def test_it_answers_with_a_key_until_a_signal_ends_it(shared_tiny_bundle, tmp_path, number):
    keys = tmp_path / "keys.txt"
    keys.write_text("secret\n")
    words = [str(shared_tiny_bundle.folder), "--port", "0", "--key-file", str(keys)]
    with subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True) as server:
        line = server.stderr.readline()
        address = line.split()[-1]
        assert line.endswith(f") at {address}\n") and address.startswith("http://127.0.0.1:")
        assert answer(f"{address}/health")["status"] == "ok"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            answer(f"{address}/v1/embeddings", {"input": "a cat"})
        body = {"input": "a cat"}
        got = answer(f"{address}/v1/embeddings", body, authorization="Bearer secret")
        assert len(got["data"]) == 1
        server.send_signal(number)
        assert (server.wait(60), server.stderr.read()) == ENDS[number]


def test_what_cannot_be_served_is_one_line(command_line, shared_tiny_bundle, tmp_path, monkeypatch):
    folder = shared_tiny_bundle.folder
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = command_line("serve", folder, "--port", port)
        assert (code, err.count("\n")) == (2, 1) and f"port {port} on 127.0.0.1 is in use" in err
    code, _, err = command_line("serve", tmp_path / "missing")
    assert (code, err.count("\n")) == (2, 1)
    (tmp_path / "keys").write_text("\n")
    code, _, err = command_line("serve", folder, "--key-file", tmp_path / "keys")
    assert code == 2 and "is empty" in err
    monkeypatch.setenv("TINYCLIP_EDGE_API_KEY", " ")
    code, _, err = command_line("serve", folder)
    assert code == 2 and "TINYCLIP_EDGE_API_KEY is empty" in err
