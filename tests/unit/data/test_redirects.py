"""Addresses of shards: redirects, hosts, passwords, and braces in them."""

import base64
import http.server
import urllib.request

import pytest
from shard_files import refused

from answering import answering
from tinyclip_edge.data import open_source, patterns, remote
from tinyclip_edge.data.web_address import opener


class Redirect(http.server.BaseHTTPRequestHandler):
    """Answers with a redirect, or with headers of its own."""

    answers: dict[str, tuple[int, dict[str, str]]]
    requests: list[tuple[str, str | None]]

    def do_GET(self):
        type(self).requests.append((self.path, self.headers.get("Authorization")))
        code, headers = self.answers[self.path.partition("?")[0]]
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_args):
        pass


@pytest.fixture
def redirects(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0, 0.0))
    kind = type("Handler", (Redirect,), {"answers": {}, "requests": []})
    with answering(http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)) as running:
        kind.url = f"http://127.0.0.1:{running.server_address[1]}"
        yield kind


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "target", ["ftp://127.0.0.1/a.tar", "file:///etc/passwd", "data:,a", "x:y"]
)
def test_a_redirect_to_another_scheme_is_not_followed(redirects, code, target):
    redirects.answers["/a.tar"] = (code, {"Location": target})
    message = refused(open_source, f"{redirects.url}/a.tar")
    assert message == f"shard {redirects.url}/a.tar cannot be read: it redirects to {target}"
    assert len(redirects.requests) == 1


def test_a_redirect_from_https_stays_there():
    handler = next(
        one for one in opener().handlers if isinstance(one, urllib.request.HTTPRedirectHandler)
    )
    request = urllib.request.Request("https://example.org/a.tar")
    with pytest.raises(ValueError, match=r"it redirects to http://example\.org"):
        handler.redirect_request(request, None, 302, "", {}, "http://example.org/b.tar")
    assert handler.redirect_request(request, None, 302, "", {}, "https://example.org/b.tar")


@pytest.mark.parametrize(
    ("target", "expected_message"),
    [
        ("http://[::1/a.tar", "Invalid IPv6"),
        ("http://" + "x" * 70 + ".org/", "label"),
        ("http://a..b/", "label"),
        ("http://a:port/", "Port could not be cast"),
        ("http://a:99999/", "out of range"),
    ],
)
def test_a_host_that_cannot_be_is_named(redirects, target, expected_message):
    redirects.answers["/a.tar"] = (302, {"Location": target})
    message = refused(open_source, f"{redirects.url}/a.tar")
    assert expected_message in message and f"shard {redirects.url}/a.tar" in message
    assert expected_message in refused(open_source, target) or "cannot be read" in refused(
        open_source, target
    )
    assert len(redirects.requests) == 1


@pytest.mark.parametrize("length", ["abc", "-5", "1e3", "9" * 5000])
def test_a_length_that_is_no_number_is_named(redirects, length):
    redirects.answers["/a.tar"] = (200, {"Content-Length": length})
    message = refused(open_source, f"{redirects.url}/a.tar")
    assert "Content-Length" in message
    assert len(message) < 800


def test_a_redirect_in_a_circle_ends(redirects):
    redirects.answers["/a.tar"] = (302, {"Location": "/a.tar"})
    assert "HTTP 302" in refused(open_source, f"{redirects.url}/a.tar")


def test_a_password_goes_to_its_own_host_alone_and_into_no_message(redirects):
    host = redirects.url.removeprefix("http://")
    redirects.answers["/a.tar"] = (302, {"Location": f"{redirects.url}/b.tar?token=hidden"})
    redirects.answers["/b.tar"] = (404, {})
    url = f"http://me:s%C3%A4%40cret@{host}/a.tar?X-Amz-Signature=hidden"
    message = refused(open_source, url)
    assert message.startswith(f"shard http://…@{host}/a.tar?… cannot be read: HTTP 404")
    assert redirects.requests == [
        (
            "/a.tar?X-Amz-Signature=hidden",
            "Basic " + base64.b64encode("me:sä@cret".encode()).decode(),
        ),
        ("/b.tar?token=hidden", None),
    ]
    name = open_source([url, "http://you:word@host/x?y"]).name
    assert name == f"http://…@{host}/a.tar?…, http://…@host/x?…"
    redirects.answers["/a.tar"] = (302, {"Location": "ftp://me:secret@host/a.tar"})
    assert "secret" not in refused(open_source, f"{redirects.url}/a.tar")


@pytest.mark.parametrize(
    "pattern", ["http://a/{0..99999999}.tar", "{-5..99999999..1}", "{a,b}" * 40]
)
def test_braces_without_end_are_refused(monkeypatch, pattern):
    monkeypatch.setattr(patterns, "NAMES", 1000)
    assert "more than 1,000 names" in refused(open_source, pattern)


def test_braces_in_thousands_of_braces_are_refused():
    assert "brace" in refused(open_source, "http://a/" + "{" * 5000 + "a,b" + "}" * 5000)
