"""Start the demo server; gradio is imported only when the page is built."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tinyclip_demo.gallery import Gallery
from tinyclip_demo.index import default_index_folder
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.service import DemoService
from tinyclip_demo.uploads import MAX_UPLOAD_MB, upload_folder, use_one_heap
from tinyclip_edge.access import (
    LOOPBACK_NAMES,
    HostGuard,
    HostRule,
    listening_socket,
    port_in_use,
)
from tinyclip_edge.errors import MissingExtraError
from tinyclip_edge.runtime.protocol import Embedder

if TYPE_CHECKING:
    import gradio as gr

HERE = Path(__file__).parent
MAX_QUEUE = 64
PARALLEL = 16  # concurrent requests per event; the service still runs one model at a time
OPEN_PAGES = 128  # sessions in memory, 0.15 MB each; the least recently used is dropped


@dataclass(frozen=True, slots=True)
class Visitors:
    """Host names under which visitors reach the page, and their rights."""

    allow_hosts: Sequence[str] = ()  # further host names; see ``HostRule``
    trusted: bool = False  # everyone may open folders and models of this machine


def build_app(service: DemoService) -> gr.Blocks:
    """Build the page; raise MissingExtraError without gradio."""
    # gradio reads this on import; otherwise it would send usage reports.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "the demo needs gradio: pip install 'tinyclip-edge[demo]'"
        ) from error
    from tinyclip_demo.page import build_page

    return build_page(service)


def launch(
    models: Sequence[str | Embedder],
    gallery: Gallery,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    open_browser: bool = False,
    threads: int | None = None,
    visitors: Visitors = Visitors(),
) -> None:
    """Serve the page until Ctrl-C; models are loaded when it is first opened.

    KeyboardInterrupt passes. A model is any MODEL; a bundle may also be ``FOLDER@PRECISION``. Only
    visitors on this machine may open its folders and models, and nobody may with a public host or
    ``share``, unless visitors are trusted. Raises ConfigError when the port is in use or the host
    is not this machine's, BundleError for a broken bundle, MissingExtraError without gradio.
    """
    check_address(host, port)
    use_one_heap()
    service = DemoService(
        ModelRegistry(models, threads=threads),
        gallery,
        index_folder=default_index_folder(),
        paths=visitors.trusted or (host in LOOPBACK_NAMES and not share),
        trust_visitors=visitors.trusted,
    )
    rule = HostRule(host, visitors.allow_hosts)
    with upload_folder():
        page = build_app(service)
        serve(page, host=host, port=port, share=share, open_browser=open_browser, rule=rule)
        _log(f"demo: {page.share_url or page.local_url}  (stop with Ctrl-C)")
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def serve(
    page: gr.Blocks,
    *,
    host: str,
    port: int,
    share: bool = False,
    open_browser: bool = False,
    rule: HostRule | None = None,
) -> None:
    """Start the server in the background behind the rule; ConfigError if the port is in use."""
    rule = rule or HostRule(host)
    from tinyclip_demo.theme import page_theme

    # Starlette renamed a constant that gradio reads at every request; users cannot act on it.
    warnings.filterwarnings("ignore", message=".*HTTP_422_UNPROCESSABLE_ENTITY.*")
    try:
        page.queue(default_concurrency_limit=PARALLEL, max_size=MAX_QUEUE).launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            share=share,
            inbrowser=open_browser,
            quiet=True,
            state_session_capacity=OPEN_PAGES,
            prevent_thread_lock=True,
            max_file_size=f"{MAX_UPLOAD_MB}mb",
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            app_kwargs={"lifespan": _guarded(rule)},
            theme=page_theme(),
            # As head, not as css: gradio would split selectors such as :is(th, td) at the comma.
            head=f"<style>{(HERE / 'page.css').read_text(encoding='utf-8')}</style>",
            favicon_path=HERE / "icon.svg",
        )
    # Another process may have taken the port since check_address.
    except OSError as error:
        raise port_in_use(host, port) from error
    if page.share_url:
        rule.allow(urlsplit(page.share_url).hostname or "")


def _guarded(rule: HostRule) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """Return a lifespan handler that wraps the whole application in the host guard.

    As an ordinary middleware it would run after gradio's own, which answers preflight requests.
    """

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:  # noqa: ANN401 - gradio's FastAPI
        app.middleware_stack = HostGuard(app.middleware_stack, rule)
        yield

    return lifespan


def check_address(host: str, port: int) -> None:
    """Raise ConfigError when nothing can listen at ``host:port``."""
    listening_socket(host, port).close()


def _log(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
