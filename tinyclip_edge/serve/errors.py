"""Refused requests: a status and one line, in the format that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyclip_edge.errors import TinyClipError


class RequestError(TinyClipError):
    """A request that the server refuses; ``status`` is the HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": "1"} if self.status == 503 else {}


def error_body(message: str, status: int) -> Mapping[str, Any]:
    """Return the body of the response."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
