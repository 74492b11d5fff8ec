"""Run the application until a signal ends it."""

from __future__ import annotations

from collections.abc import Callable

import uvicorn

from tinyclip_edge.access import App, listening_socket

GRACE_SECONDS = 30  # for requests in progress when the server is stopped
_IDLE_SECONDS = 30  # after which an idle connection is closed
_CONNECTIONS = 1000


def serve(app: App, *, host: str, port: int, started: Callable[[str], None]) -> None:
    """Serve requests until SIGINT or SIGTERM, then finish those in progress.

    ``started`` is called with the address. Raise ConfigError if the server cannot listen there,
    and KeyboardInterrupt after SIGINT.
    """
    with listening_socket(host, port) as listener:
        number = listener.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, use_colors=False, server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS, timeout_keep_alive=_IDLE_SECONDS,
            limit_concurrency=_CONNECTIONS, ws="none",
        )  # fmt: skip
        started(f"http://{name}:{number}")
        uvicorn.Server(config).run(sockets=[listener])
