"""What the server of the browser page hands out, and under which headers."""

import http.client
import os

import pytest

from answering import answering
from tiny_bundle import write_tiny_bundle
from tinyclip_demo.web import page_server
from tinyclip_demo.web_files import ORT_FILES, find_ort, page_files, page_folder
from tinyclip_edge.errors import BundleError, ConfigError, MissingExtraError


@pytest.fixture(scope="module")
def ort(tmp_path_factory):
    """Stand-ins of onnxruntime-web's files, where npm would put them."""
    root = tmp_path_factory.mktemp("npm")
    dist = root / "node_modules" / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    for name in ORT_FILES:
        (dist / name).write_bytes(name.encode())
    (dist / "secret.txt").write_text("not part of it")
    return root


@pytest.fixture(scope="module")
def server(tmp_path_factory, ort):
    root = tmp_path_factory.mktemp("served")
    (root / "secret.txt").write_text("beside the bundle")
    write_tiny_bundle(root / "bundle")
    (root / "bundle" / "notes.txt").write_text("not in the manifest")
    (root / "bundle" / "link.txt").symlink_to(root / "secret.txt")
    with answering(page_server(root / "bundle", ort)) as instance:
        yield instance


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    try:
        # As it is: a client library would tidy up the dots.
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_page_bundle_and_runtime_are_there_with_their_types(server):
    bundle = server.files["/bundle/manifest.json"].parent
    for path, kind, content in (
        ("/", "text/html; charset=utf-8", (page_folder() / "index.html").read_bytes()),
        ("/js/main.js?x=1", "text/javascript; charset=utf-8", None),
        ("/page.css", "text/css; charset=utf-8", None),
        ("/bundle/manifest.json", "application/json", (bundle / "manifest.json").read_bytes()),
        ("/bundle/onnx/text_model.onnx", "application/octet-stream", None),
        ("/ort/ort.wasm.min.mjs", "text/javascript; charset=utf-8", b"ort.wasm.min.mjs"),
        ("/ort/ort-wasm-simd-threaded.wasm", "application/wasm", None),
    ):
        status, headers, body = ask(server, path)
        assert (status, headers["Content-Type"]) == (200, kind), path
        assert content is None or body == content
        assert int(headers["Content-Length"]) == len(body) > 0


def test_every_answer_isolates_the_page(server):
    for path in ("/", "/js/worker.js", "/ort/ort.wasm.min.mjs", "/nothing"):
        _, headers, _ = ask(server, path)
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/bundle/../../secret.txt",
        "/bundle/..%2f..%2fsecret.txt",
        "/bundle/%2e%2e/secret.txt",
        "/bundle/..\\secret.txt",
        "/bundle//etc/passwd",
        "//etc/passwd",
        "/etc/passwd",
        "/bundle/link.txt",
        "/bundle/notes.txt",
        "/bundle/",
        "/bundle",
        "/js/",
        "/ort/secret.txt",
        "/ort/../package.json",
        "/README.md",
        "/bundle/manifest.json%00.txt",
        "/%ff%fe",
    ],
)
def test_nothing_else_is_handed_out(server, path):
    status, _, body = ask(server, path)
    assert status == 404
    assert b"secret" not in body
    assert b"root:" not in body


def test_head_has_the_headers_alone_and_other_methods_are_refused(server):
    status, headers, body = ask(server, "/index.html", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) == (page_folder() / "index.html").stat().st_size
    for method in ("POST", "PUT", "DELETE"):
        assert ask(server, "/", method)[0] == 501


def test_an_unchanged_file_is_sent_once_and_a_changed_one_again(server):
    _, headers, _ = ask(server, "/bundle/tokenizer.json")
    assert headers["Cache-Control"] == "no-cache"
    status, again, body = ask(server, "/bundle/tokenizer.json", If_None_Match=headers["ETag"])
    assert (status, body) == (304, b"")
    assert again["Cross-Origin-Resource-Policy"] == "same-origin"
    os.utime(server.files["/bundle/tokenizer.json"], ns=(1, 1))
    assert ask(server, "/bundle/tokenizer.json", If_None_Match=headers["ETag"])[0] == 200


def test_a_file_that_went_away_is_reported(server):
    path = server.files["/bundle/tokenizer_config.json"] = server.files["/"].with_name("gone")
    assert not path.exists()
    assert ask(server, "/bundle/tokenizer_config.json")[0] == 404


def test_only_this_machine_is_listened_to(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_address[1]}/"


def test_no_bundle_and_a_used_port_are_reported_in_one_line(tmp_path, server, ort):
    with pytest.raises(BundleError, match=r"is not a bundle: it has no manifest\.json"):
        page_server(tmp_path, ort)
    bundle = server.files["/bundle/manifest.json"].parent
    with pytest.raises(ConfigError, match="in use"):
        page_server(bundle, ort, port=server.server_address[1])


def test_runtime_is_located_by_option_or_nearby(tmp_path, ort, monkeypatch):
    dist = ort / "node_modules" / "onnxruntime-web" / "dist"
    for folder in (dist, dist.parent, ort):
        assert find_ort(folder, near=tmp_path) == dist
    monkeypatch.chdir(tmp_path)
    below = ort / "runs" / "bundle"
    below.mkdir(parents=True)
    assert find_ort(None, near=below) == dist
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "tinyclip-edge").mkdir()
    (tmp_path / "tinyclip-edge" / "web").symlink_to(ort)
    assert find_ort(None, near=tmp_path).resolve() == dist


def test_a_missing_runtime_names_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for folder in (None, tmp_path):
        with pytest.raises(MissingExtraError, match=r"npm install --prefix \S+ onnxruntime-web"):
            find_ort(folder, near=tmp_path)


def test_page_has_no_address_of_another_host():
    for path in set(page_files().values()):
        if path.suffix in (".html", ".css", ".js"):
            assert "http:" not in path.read_text(encoding="utf-8"), path
            assert "https:" not in path.read_text(encoding="utf-8"), path


def test_the_command_refuses_what_it_cannot_serve(command_line, server, tmp_path):
    code, _, err = command_line("demo", "--web", tmp_path / "none")
    assert code == 2
    assert "none is not a bundle: it has no manifest.json" in err
    bundle = server.files["/bundle/manifest.json"].parent
    code, _, err = command_line("demo", "--web", bundle, "--ort", tmp_path)
    assert code == 2
    assert f"npm install --prefix {tmp_path} onnxruntime-web" in err


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:7860"},
        {"Host": "10.0.0.7"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"X_Forwarded_Host": "evil.example"},
    ],
)
def test_a_foreign_host_or_origin_gets_nothing(server, headers):
    for path in ("/", "/bundle/manifest.json", "/ort/ort.wasm.min.mjs", "/nothing"):
        status, answered, body = ask(server, path, **headers)
        assert (status, answered["Content-Type"]) == (403, "text/plain; charset=utf-8")
        assert body.startswith(b"this server does not accept ")
        assert "Access-Control-Allow-Origin" not in answered
    assert ask(server, "/", "HEAD", **headers)[::2] == (403, b"")


def test_own_names_and_the_own_origin_are_answered(server):
    port = server.server_address[1]
    for host in (f"localhost:{port}", f"[::1]:{port}", "127.0.0.1"):
        assert ask(server, "/bundle/manifest.json", Host=host, Origin=f"http://{host}")[0] == 200


def test_links_of_a_bundle_are_refused_and_never_followed(tmp_path, ort):
    write_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "secret").write_text("beside the bundle")
    tower = tmp_path / "bundle" / "onnx" / "text_model.onnx"
    tower.rename(tmp_path / "model")
    tower.symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match=r"onnx/text_model\.onnx is a link .* plain files"):
        page_server(tmp_path / "bundle", ort)
    tower.unlink()
    (tmp_path / "model").rename(tower)
    with answering(page_server(tmp_path / "bundle", ort)) as instance:
        assert ask(instance, "/bundle/onnx/text_model.onnx")[0] == 200
        tower.unlink()
        tower.symlink_to(tmp_path / "secret")  # put there while it serves
        status, _, body = ask(instance, "/bundle/onnx/text_model.onnx")
        assert status == 404 and b"beside" not in body
