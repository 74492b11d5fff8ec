"""Serve the page that runs a bundle in the browser, with the headers that threads require."""

from __future__ import annotations

import shutil
import socket
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tinyclip_demo.app import check_address
from tinyclip_demo.web_files import ORT_START, files_by_address, find_ort, page_files
from tinyclip_edge.access import HostRule
from tinyclip_edge.errors import BundleError
from tinyclip_edge.runtime.bundle import MANIFEST, Manifest, bundle_file

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
}
HEADERS = {
    # Together they isolate the page, which browsers require for shared memory and so for threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Cached by the browser but revalidated each time, since a bundle may be exported again.
    "Cache-Control": "no-cache",
}
_BUNDLE = "/bundle/"  # prefix of the addresses of a bundle's files
_IDLE_SECONDS = 30  # after which an idle connection is closed
_BLOCK = 1 << 18


class PageServer(ThreadingHTTPServer):
    """Serves the files of a table and nothing else, to clients that the rule allows."""

    daemon_threads = True

    def __init__(
        self, host: str, port: int, bundle: Path, files: Mapping[str, Path], rule: HostRule
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.files, self.rule, self._bundle = files, rule, bundle
        super().__init__((host, port), _Handler)

    def file_at(self, address: str) -> Path | None:
        """Return the file of an address; None if there is none or a link has replaced it."""
        path = self.files.get(address)
        if path is not None and address.startswith(_BUNDLE):
            try:
                bundle_file(self._bundle, address.removeprefix(_BUNDLE))
            except BundleError:
                return None
        return path

    @property
    def url(self) -> str:
        """Address of the page."""
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore closed connections; print all other errors."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS

    def do_GET(self) -> None:
        self._respond(body=True)

    def do_HEAD(self) -> None:
        self._respond(body=False)

    def version_string(self) -> str:
        return "tinyclip-edge"

    def log_message(self, *_: object) -> None:
        pass

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def _refuse(self, reason: str, *, body: bool) -> None:
        content = f"{reason}\n".encode()
        self.close_connection = True
        self.send_response(HTTPStatus.FORBIDDEN)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _respond(self, *, body: bool) -> None:
        if refusal := self.server.rule.refusal(self.headers.items()):
            self._refuse(refusal, body=body)
            return
        # A lookup in a table, so that no request can reach another file.
        path = self.server.file_at(unquote(urlsplit(self.path).path))
        try:
            file = path.open("rb") if path is not None else None
        except OSError:
            file = None
        if path is None or file is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with file:
            stat = path.stat()
            tag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
            if self.headers.get("If-None-Match") == tag:
                self.send_response(HTTPStatus.NOT_MODIFIED)
                self.send_header("ETag", tag)
                self.end_headers()
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", _TYPES.get(path.suffix, "application/octet-stream"))
            self.send_header("Content-Length", str(stat.st_size))
            self.send_header("ETag", tag)
            self.end_headers()
            if body:
                shutil.copyfileobj(file, self.wfile, _BLOCK)


def page_server(
    bundle: str | Path,
    ort: str | Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    allow_hosts: Sequence[str] = (),
) -> PageServer:
    """Bind a server for a bundle; ``port=0`` takes a free port; ``allow_hosts``: see ``HostRule``.

    Raises BundleError for an invalid bundle, MissingExtraError without onnxruntime-web, ConfigError
    when the address cannot be used.
    """
    manifest = Manifest.read(bundle)
    dist = find_ort(ort, near=Path(bundle))
    if port:
        check_address(host, port)
    files = {
        **page_files(),
        **_bundle_files(bundle, manifest),
        **files_by_address("/ort/", dist, [file.name for file in dist.glob(f"{ORT_START}*")]),
    }
    return PageServer(host, port, Path(bundle), files, HostRule(host, allow_hosts))


def _bundle_files(bundle: str | Path, manifest: Manifest) -> dict[str, Path]:
    """Return the manifest and its files by address, without absent ones; BundleError for links."""
    paths = {name: bundle_file(bundle, name) for name in (MANIFEST, *manifest.files)}
    return {f"{_BUNDLE}{name}": path for name, path in paths.items() if path.is_file()}


def serve_web(
    bundle: str | Path,
    ort: str | Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    open_browser: bool = False,
    allow_hosts: Sequence[str] = (),
) -> None:
    """Serve the page until KeyboardInterrupt, which passes; raises like ``page_server``."""
    with page_server(bundle, ort, host=host, port=port, allow_hosts=allow_hosts) as server:
        sys.stderr.write(f"demo: {server.url}  (stop with Ctrl-C)\n")
        sys.stderr.flush()
        if open_browser:
            webbrowser.open(server.url)
        server.serve_forever()
