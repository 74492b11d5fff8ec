"""ASGI middleware for every request: limits its size, checks its key, measures its time."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import MutableMapping, Sequence
from typing import Any

from tinyclip_edge.access import App, Receive, Scope, Send, decoded
from tinyclip_edge.json_text import check_structure
from tinyclip_edge.serve.errors import RequestError, error_body
from tinyclip_edge.serve.metrics import ServerMetrics
from tinyclip_edge.serve.settings import ServerLimits

OPEN_ROUTES = ("/health",)  # answered without a key, for health checks
_UNKNOWN = "other"  # paths come from strangers and must not become metric labels


class RequestGuard:
    """Bounds bodies, checks keys, counts responses."""

    def __init__(
        self,
        app: App,
        limits: ServerLimits,
        metrics: ServerMetrics,
        *,
        routes: Sequence[str],
        keys: Sequence[str] = (),
    ) -> None:
        """``routes``: paths counted by name; ``keys``: any one of them gives access."""
        self.app, self.limits, self.metrics = app, limits, metrics
        self._routes, self._keys = frozenset(routes), [key.encode() for key in keys]
        self._held = 0  # bytes of the bodies of requests in progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reply to requests that are refused here; pass on the others with their whole body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, held = time.perf_counter(), 500, 0

        async def counted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check_key(scope)
            body = bytearray()
            async for part in self._parts(scope, receive):
                held += len(part)
                self._held += len(part)
                self._check_size(held)
                body += part
            whole = bytes(body)
            self._check_values(whole)
            await self.app(scope, _replay(whole, receive), counted)
        except RequestError as error:
            await _refuse(error, counted)
        except ConnectionAbortedError:
            status = 499  # the client left before its body arrived; nginx's code
        finally:
            self._held -= held
            path = scope["path"]
            route = path if path in self._routes else _UNKNOWN
            self.metrics.request(route, status, time.perf_counter() - started)

    def _check_key(self, scope: Scope) -> None:
        if not self._keys or scope["path"] in OPEN_ROUTES:
            return
        values = [v for name, v in decoded(scope["headers"]) if name.lower() == "authorization"]
        word, _, key = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        # All are compared, so that timing does not reveal a common prefix.
        matches = [hmac.compare_digest(key.strip().encode(), own) for own in self._keys]
        if word.lower() != "bearer" or not any(matches):
            raise RequestError("this server needs a key: Authorization: Bearer KEY", 401)

    async def _parts(self, scope: Scope, receive: Receive) -> Any:  # noqa: ANN401 - of bytes
        lengths = [v for name, v in decoded(scope["headers"]) if name.lower() == "content-length"]
        if lengths and lengths[0].isdigit():
            self._check_size(int(lengths[0][:20]))
        more = True
        while more:
            try:
                message = await asyncio.wait_for(receive(), self.limits.body_seconds)
            except asyncio.TimeoutError:
                raise RequestError(
                    f"no part of the body arrived for {self.limits.body_seconds:g} s", 408
                ) from None
            if message["type"] == "http.disconnect":
                raise ConnectionAbortedError
            yield message.get("body", b"")
            more = message.get("more_body", False)

    def _check_values(self, body: bytes) -> None:
        """Refuse JSON whose values would take many times the memory of its text."""
        if not json.detect_encoding(body).startswith("utf-8"):  # check_structure counts UTF-8
            raise RequestError("the request's body is not UTF-8")
        try:
            check_structure(body, self.limits.values)
        except ValueError as error:
            raise RequestError(f"the request's body: {error}", 413) from None

    def _check_size(self, size: int) -> None:
        if size > self.limits.request_bytes:
            raise RequestError(
                f"the request has more than {self.limits.request_bytes:,} bytes; send fewer or "
                "smaller inputs at once",
                413,
            )
        if self._held > self.limits.body_bytes:
            raise RequestError("the server is busy; try again in a second", 503)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that returns the whole body, then the connection's messages."""
    sent = False

    async def replayed() -> MutableMapping[str, Any]:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _refuse(error: RequestError, send: Send) -> None:
    body = json.dumps(error_body(str(error), error.status)).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers += [(name.lower().encode(), text.encode()) for name, text in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
