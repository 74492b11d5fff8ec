"""Starting the page: what goes wrong is one line that says what to do."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tinyclip_demo.app import build_app, check_address, launch
from tinyclip_edge.errors import ConfigError, MissingExtraError


def test_a_port_in_use_is_named_with_the_option():
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
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


@pytest.mark.parametrize("named", [False, True])
def test_uploads_are_this_process_own_and_removed(monkeypatch, tmp_path, named):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    if named:
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "mine"))
    used = []

    class Page:
        share_url, local_url = None, "http://localhost/"

        def close(self, *, verbose):
            assert not verbose

    def served(_page, **_options):
        from gradio.utils import get_upload_folder

        used.append(Path(get_upload_folder()))
        used[0].mkdir(exist_ok=True)
        (used[0] / "upload.png").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("tinyclip_demo.app.build_app", lambda _service: Page())
    monkeypatch.setattr("tinyclip_demo.app.serve", served)
    with pytest.raises(KeyboardInterrupt):
        launch(["starter-teacher"], None, port=0)
    assert used[0] == tmp_path / "mine" if named else used[0].parent == tmp_path
    assert used[0].name != "gradio"
    assert used[0].exists() is named


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
