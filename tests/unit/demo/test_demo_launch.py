"""Starting the page: what goes wrong is one line that says what to do."""

import socket
import subprocess
import sys

import pytest

from tinyclip_demo.app import build_app, check_address, launch
from tinyclip_edge.errors import ConfigError, MissingExtraError


def test_a_port_in_use_is_named_with_the_option():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} .*in use.*--port"):
            launch([], None, port=port)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 70000, "--port"),
        ("192.0.2.1", 7860, "--host"),  # an address reserved for documentation
    ],
)
def test_an_address_that_cannot_be_used(host, port, message):
    with pytest.raises(ConfigError, match=message):
        check_address(host, port)


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tinyclip-edge\[demo\]'"):
        build_app(None)


def test_the_package_imports_without_gradio_and_torch():
    code = (
        "import sys, tinyclip_demo, tinyclip_demo.view.speed, tinyclip_demo.view.pairs;"
        "print([m for m in ('gradio', 'torch', 'open_clip') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
