"""Access rules of this project's servers for Host, Origin and the client's address.

A foreign page can point its own name at 127.0.0.1 (DNS rebinding) or send forms here (CSRF).
Browsers then send its name in Host or Origin, so every server checks both with `HostRule` first.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from tinyclip_edge.errors import ConfigError

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
EVERY_HOST = "*"
HEADER_BYTES = 300  # of a Host header; names have at most 253
# Added by proxies. A browser on this machine sends none of them; they never grant anything.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@\[\]]+)(:\d{1,5})?", re.ASCII)
_DEFAULT_PORT = re.compile(r":(80|443)$")

Headers = Iterable[tuple[str, str]]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class HostRule:
    """Host names that a server accepts; see ``refusal``."""

    def __init__(self, host: str, allow_hosts: Iterable[str] = ()) -> None:
        """Allow the loopback names, the ``host`` that the server listens on, and ``allow_hosts``.

        A server that listens on every address (0.0.0.0, ::) also allows the machine's own names
        and any IP address, because rebinding needs a name. ``*`` in ``allow_hosts`` allows
        everything, including foreign origins: for a server without private data.
        """
        names = {*LOOPBACK_NAMES, _bare(host), *map(_bare, allow_hosts)}
        self._every = EVERY_HOST in names
        self._addresses = _is_unspecified(host)
        if self._addresses:
            names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
        self._names = names

    def allow(self, name: str) -> None:
        """Allow another name that is known only after the server's start."""
        self._names.add(_bare(name))

    def refusal(self, headers: Headers) -> str | None:
        """Return the reason for refusing a request, in one line; None for an allowed one.

        A request must have exactly one Host, which is allowed, and must not come from a page of
        another origin.
        """
        if self._every:
            return None
        values: dict[str, list[str]] = {"host": [], "origin": [], "x-forwarded-host": []}
        for name, value in headers:
            values.get(name.lower(), []).append(value.strip().lower())
        hosts = values["host"] + values["x-forwarded-host"]
        if len(values["host"]) != 1 or not all(map(self._allows, hosts)):
            return (
                "this server does not accept that Host: use http://127.0.0.1, or start it with "
                "--allow-host NAME"
            )
        authorities = {_DEFAULT_PORT.sub("", host) for host in hosts}
        for origin in values["origin"]:
            if _DEFAULT_PORT.sub("", _authority_of(origin)) not in authorities:
                return "this server does not accept requests from another origin"
        return None

    def _allows(self, host: str) -> bool:
        match = _AUTHORITY.fullmatch(host) if len(host) <= HEADER_BYTES else None
        if match is None:
            return False
        name = _bare(match[1])
        return name in self._names or (self._addresses and _address(name) is not None)


def is_local(client: str | None, headers: Headers) -> bool:
    """Whether a request comes from this machine without a proxy.

    ``client`` is the address of the other end of the connection.
    """
    if any(name.lower() in _FORWARDED for name, _ in headers):
        return False
    address = _address(client or "")
    mapped = getattr(address, "ipv4_mapped", None)
    return address is not None and (mapped or address).is_loopback


class HostGuard:
    """ASGI middleware that checks every request with a HostRule; must be the outermost one."""

    def __init__(self, app: App, rule: HostRule) -> None:
        self.app, self.rule = app, rule

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 to refused requests without reading them; pass on the others."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self.rule.refusal(decoded(scope["headers"]))
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"x-content-type-options", b"nosniff"),
                (b"connection", b"close"),
            ]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": f"{refusal}\n".encode()})


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens at ``host:port``; raise ConfigError if that fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OverflowError as error:
        raise ConfigError(f"port {port} is invalid: choose 1 to 65535 with --port") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise port_in_use(host, port) from error
        if error.errno == errno.EACCES:
            raise ConfigError(
                f"port {port} is reserved by the system: choose another with --port"
            ) from error
        raise ConfigError(
            f"host {host} is not an address of this machine: choose another with --host"
        ) from error


def port_in_use(host: str, port: int) -> ConfigError:
    """Return the error for a port that another process uses."""
    return ConfigError(f"port {port} on {host} is in use: choose another with --port")


def decoded(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Return headers of an ASGI scope as text."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _authority_of(origin: str) -> str:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return ""
    return parts.netloc if parts.scheme in ("http", "https") else ""


def _bare(name: str) -> str:
    name = name.strip().lower()
    return name[1:-1] if name.startswith("[") and name.endswith("]") else name


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _is_unspecified(host: str) -> bool:
    address = _address(_bare(host))
    return host == "" or (address is not None and address.is_unspecified)
