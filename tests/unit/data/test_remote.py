"""Shards over HTTP and from commands: read as files are, and never waited for without end."""

import functools
import http.server
from pathlib import Path

import pytest
from shard_files import refused

from answering import answering
from pair_shards import toy_samples, write_shard
from tinyclip_edge.config.source_options import SourceOptions
from tinyclip_edge.data import open_source, remote
from tinyclip_edge.errors import DataError


class Server(http.server.SimpleHTTPRequestHandler):
    """Files of a folder; may break a connection, ignore ranges, or answer with a code."""

    breaks = 0  # connections that end after half of what they owe
    ranges = True
    codes: tuple[int, ...] = ()
    then: tuple[int, ...] = ()  # codes after a break
    range_headers: list[str | None]

    def do_GET(self):
        kind = type(self)
        kind.range_headers.append(self.headers.get("Range"))
        if kind.codes:
            code, *later = kind.codes
            kind.codes = tuple(later)
            self.send_error(code)
            return
        try:
            data = Path(self.translate_path(self.path)).read_bytes()
        except OSError:
            self.send_error(404, "Not Found")
            return
        start = 0
        if kind.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        owed = data[start:]
        if kind.breaks:
            kind.breaks -= 1
            kind.codes = kind.then
            owed = owed[: len(owed) // 2]
        self.wfile.write(owed)

    def log_message(self, *_args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0, 0.0))
    kind = type("Handler", (Server,), {"range_headers": []})
    handler = functools.partial(kind, directory=str(tmp_path))
    with answering(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as running:
        kind.url = f"http://127.0.0.1:{running.server_address[1]}"
        yield kind


def same(source, path):
    pairs, expected = list(source), list(open_source(str(path)))
    assert pairs == expected
    return len(pairs)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_shard_over_http_is_the_shard(tmp_path, server, name):
    path = write_shard(tmp_path / name, toy_samples())
    source = open_source(f"{server.url}/{name}")
    assert same(source, path) == 48
    assert not source.fits(10**9)


def test_braces_name_urls_and_one_tells_of_all(tmp_path, server):
    for number in range(3):
        write_shard(tmp_path / f"s-{number}.tar", toy_samples()[number::3])
    source = open_source(f"{server.url}/s-{{0..2}}.tar")
    assert same(source, tmp_path / "s-*.tar") == 48
    assert (source.count().pairs, source.count().exact) == (48, False)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_goes_on_where_it_stopped(tmp_path, server, ranges):
    path = write_shard(tmp_path / "a.tar", toy_samples())
    half = path.stat().st_size // 2
    server.breaks, server.ranges = 1, ranges
    assert same(open_source(f"{server.url}/a.tar"), path) == 48
    assert server.range_headers == [None, f"bytes={half}-"]


def test_a_busy_server_is_retried(tmp_path, server):
    path = write_shard(tmp_path / "a.tar", toy_samples())
    server.codes = (503, 429)
    assert same(open_source(f"{server.url}/a.tar"), path) == 48


def test_a_server_that_stays_broken_is_named(tmp_path, server):
    write_shard(tmp_path / "a.tar", toy_samples())
    server.codes = (503,) * 4
    message = refused(open_source, f"{server.url}/a.tar")
    assert f"{server.url}/a.tar" in message
    assert "tried 4 times" in message
    assert len(server.range_headers) == 4


def test_a_shard_that_fails_half_way_is_named_after_the_last_try(tmp_path, server):
    half = write_shard(tmp_path / "a.tar", toy_samples()).stat().st_size // 2
    server.breaks, server.then = 1, (503,) * 9
    source = open_source(f"{server.url}/a.tar")
    read = []
    with pytest.raises(DataError) as caught:
        read.extend(pair.key for pair in source)
    message = f"shard {server.url}/a.tar cannot be read: Service Unavailable, tried 4 times"
    assert str(caught.value) == message
    assert server.range_headers == [None] + [f"bytes={half}-"] * 3
    assert source.losses.lines() == []  # it may be whole, so it is not used in part


def test_a_shard_that_is_not_there_is_not_retried(server):
    assert f"{server.url}/none.tar cannot be read: HTTP 404" in refused(
        open_source, f"{server.url}/none.tar"
    )
    assert len(server.range_headers) == 1


def test_a_cut_or_empty_file_on_the_server_is_named(tmp_path, server):
    path = write_shard(tmp_path / "a.tar", toy_samples())
    content = path.read_bytes()
    path.write_bytes(content[:700])
    (tmp_path / "b.tar").write_bytes(b"")
    assert f"{server.url}/a.tar is truncated" in refused(open_source, f"{server.url}/a.tar")
    assert f"{server.url}/b.tar is empty" in refused(open_source, f"{server.url}/b.tar")
    path.write_bytes(content[: 10 * 6 * 512 + 513])  # in sample 10: 3 members of 2 blocks
    source = open_source(f"{server.url}/a.tar")
    assert len(list(source)) == 10
    message = (
        f"shard {server.url}/a.tar is truncated after 10 samples; the incomplete one is skipped"
    )
    assert source.losses.lines() == [message]


def test_a_server_that_says_nothing_is_abandoned(monkeypatch):
    import socket

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(remote, "WAITS", (0.0,))
    monkeypatch.setattr(remote, "SILENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/a.tar"
        assert f"{url} cannot be read: timed out, tried 2 times" in refused(open_source, url)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_the_output_of_a_command_is_a_shard(tmp_path, name):
    path = write_shard(tmp_path / name, toy_samples())
    assert same(open_source(f"pipe:cat {path}", SourceOptions(allow_pipes=True)), path) == 48


def test_braces_expand_in_a_command(tmp_path):
    for number in range(2):
        write_shard(tmp_path / f"s-{number}.tar", toy_samples()[number::2])
    source = open_source(f"pipe:cat {tmp_path}/s-{{0..1}}.tar", SourceOptions(allow_pipes=True))
    assert same(source, tmp_path / "s-*.tar") == 48


def test_a_command_that_fails_is_named_with_its_output(tmp_path):
    path = write_shard(tmp_path / "a.tar", toy_samples())
    command = f"pipe:cat {path}; echo first >&2; echo no such bucket >&2; exit 3"
    message = refused(open_source, command, SourceOptions(allow_pipes=True))
    assert "cat" in message
    assert message.endswith("the command failed with exit code 3 (no such bucket)")


def test_a_silent_command_is_ended(monkeypatch):
    monkeypatch.setattr(remote, "SILENCE", 0.2)
    # the command would outlast the limit that a test has
    assert "wrote nothing for 0.2 s" in refused(
        open_source, "pipe:sleep 3600", SourceOptions(allow_pipes=True)
    )


def test_a_command_ends_with_its_reader(tmp_path):
    path = write_shard(tmp_path / "a.tar", toy_samples())
    # closing waits for the command, which would outlast the limit that a test has
    pairs = iter(
        open_source(f"pipe:cat {path} {path}; sleep 3600", SourceOptions(allow_pipes=True))
    )
    next(pairs)
    pairs.close()


def test_letters_beyond_ascii_in_a_path(tmp_path, server):
    path = write_shard(tmp_path / "häßlich €.tar", toy_samples())
    assert same(open_source(f"{server.url}/häßlich €.tar"), path) == 48
    assert same(open_source(f"{server.url}/h%C3%A4%C3%9Flich%20%E2%82%AC.tar"), path) == 48
