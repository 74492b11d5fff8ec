"""Web addresses of shards: requests, and the redirects that are followed."""

from __future__ import annotations

import base64
import urllib.request
from http.client import HTTPMessage
from typing import IO
from urllib.parse import quote, unquote, urlsplit, urlunsplit

MARKS = "/:?#[]@!$&'()*+,;=%~"  # not escaped: an address may already be escaped


def web_request(address: str) -> urllib.request.Request:
    """Return the request for an address; raise ValueError if it is invalid.

    Non-ASCII characters are escaped, and ``user:password@`` becomes a header that is not sent to
    redirect targets.
    """
    parts = urlsplit(address)
    if not parts.hostname:
        raise ValueError("it names no host")
    host = parts.hostname.encode("idna").decode("ascii") if ":" not in parts.hostname else ""
    host = host or f"[{parts.hostname}]"
    place = host if parts.port is None else f"{host}:{parts.port}"
    path, query = quote(parts.path or "/", safe=MARKS), quote(parts.query, safe=MARKS)
    request = urllib.request.Request(urlunsplit((parts.scheme, place, path, query, "")))
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        token = base64.b64encode(login.encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


class _SameKind(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, but from https only to https."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in allowed:
            raise ValueError(f"it redirects to {newurl}")
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None:
            web_request(newurl)  # an invalid host name
        return following

    def http_error_302(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
    ) -> object:
        target = headers.get("location") or headers.get("uri") or ""
        scheme = urlsplit(target).scheme
        if scheme not in ("", "http", "https"):  # the message of urllib contains the whole address
            raise ValueError(f"it redirects to {target}")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https, without files and FTP."""
    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SameKind(),
    ):
        director.add_handler(handler)
    return director
