"""Requests that a page of somewhere else can make a browser send to the demo, over real HTTP."""

import http.client
import json
import socket

import pytest
from angle_model import BLUE, GREEN, RED, AngleModel, square

from tinyclip_demo.app import build_app, serve
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.service import DemoService
from tinyclip_edge.access import HostRule

FOREIGN = "evil.example"
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n'
    b"Content-Type: image/png\r\n\r\nabc\r\n--x--\r\n"
)
FORM_TYPE = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("private")
    square(RED).save(folder / "secret.png")
    return folder


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    gallery = Gallery("two", (square(GREEN), square(BLUE)), ("green", "blue"))
    model = AngleModel("first", {RED: 0, GREEN: 30, BLUE: 100}, {"green": 30, "blue": 100})
    runs = tmp_path_factory.mktemp("runs")
    page = build_app(DemoService(ModelRegistry([model]), gallery, runs=runs))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number = probe.getsockname()[1]
    serve(page, host="127.0.0.1", port=number, rule=HostRule("127.0.0.1", ["demo.lan"]))
    yield number
    page.close(verbose=False)


def ask(port, path, method="GET", body=None, host=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host or f"127.0.0.1:{port}")
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def post(port, path, content, **headers):
    body = json.dumps(content).encode()
    return ask(port, path, "POST", body, Content_Type="application/json", **headers)


def event(port, elem_id, number=0):
    """Number of the handler of an element, as the page's configuration says it."""
    config = json.loads(ask(port, "/config")[2])
    target = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == elem_id)
    matches = [d["id"] for d in config["dependencies"] if target in [t[0] for t in d["targets"]]]
    return matches[number]


def outcome(port, elem_id, data, **headers):
    """What a handler answers, the whole way: into the queue, and out of it as an event stream."""
    number, session = event(port, elem_id), f"session{abs(hash((elem_id, str(headers))))}"
    joined = {"fn_index": number, "session_hash": session, "data": data}
    status, _, content = post(port, "/gradio_api/queue/join", joined, **headers)
    assert status == 200, content
    stream = ask(port, f"/gradio_api/queue/data?session_hash={session}")[2].decode()
    return next(line for line in stream.splitlines() if "process_completed" in line)


@pytest.mark.parametrize("host", [FOREIGN, f"{FOREIGN}:80", "10.0.0.7", "127.0.0.1.evil.example",
    "localhost.evil.example", "127.0.0.1@evil.example", "[::2]", "localhost:1:2",
    "x" * 400])  # fmt: skip
def test_another_host_gets_nothing(port, host):
    for path in ("/", "/config", "/theme.css", "/gradio_api/info", "/gradio_api/queue/data?x=1"):
        status, headers, content = ask(port, path, host=host)
        assert (status, headers["content-type"]) == (403, "text/plain; charset=utf-8")
        assert b"--allow-host NAME" in content
    assert post(port, "/gradio_api/queue/join", {}, host=host)[0] == 403
    assert ask(port, "/gradio_api/upload", "POST", FORM, host=host, **FORM_TYPE)[0] == 403


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:1234", "LOCALHOST", "[::1]:7860", "demo.lan"]
)
def test_names_of_this_machine_and_allowed_ones_are_answered(port, host):
    assert ask(port, "/config", host=host)[0] == 200
    assert ask(port, "/config", host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize("origin", [f"http://{FOREIGN}", "null", "http://localhost:1", "file://",
    "https://127.0.0.1.evil.example", "chrome-extension://x"])  # fmt: skip
def test_pages_of_another_origin_change_nothing_and_read_nothing(port, origin):
    for status, headers, _ in (
        ask(port, "/config", Origin=origin),
        ask(port, "/gradio_api/upload", "POST", FORM, Origin=origin, **FORM_TYPE),
        post(port, "/gradio_api/queue/join", {"fn_index": 0, "data": []}, Origin=origin),
        ask(port, "/gradio_api/upload", "OPTIONS", Origin=origin,
            Access_Control_Request_Method="POST"),
    ):  # fmt: skip
        assert status == 403
        assert not [name for name in headers if name.lower().startswith("access-control")]


def test_another_forwarded_host_or_two_hosts_are_refused(port):
    assert ask(port, "/config", X_Forwarded_Host=FOREIGN)[0] == 403
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(b"GET /config HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert raw.recv(100).split()[1] in (b"400", b"403")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(b"GET /config HTTP/1.0\r\n\r\n")
        assert raw.recv(100).split()[1] == b"403"


def test_the_page_itself_uploads_and_asks(port):
    own = {"Origin": f"http://127.0.0.1:{port}"}
    status, _, content = ask(port, "/gradio_api/upload", "POST", FORM, **own, **FORM_TYPE)
    assert status == 200 and json.loads(content)[0].endswith("a.png")
    assert ask(port, "/theme.css", **own)[0] == 200


@pytest.mark.parametrize("button", ["open-folder", "own-open"])
def test_folders_open_for_this_machine_alone(port, pictures, button):
    paths = [str(pictures)]
    assert "private" in outcome(port, button, paths)
    for headers in ({"X_Forwarded_For": "127.0.0.1"}, {"X_Forwarded_For": "203.0.113.9"}):
        answer = outcome(port, button, paths, **headers)
        assert "isitors from other machines cannot open folders" in answer
        assert pictures.name not in answer


def test_finished_runs_are_shown_on_this_machine_alone(port):
    assert "its plot will appear here" in outcome(port, "tailored-runs", [None])
    answer = outcome(port, "tailored-runs", [None], X_Forwarded_For="127.0.0.1")
    assert '"success":true' in answer and "plot" not in answer


def test_models_are_added_by_this_machine_alone(port):
    for headers in ({"X_Forwarded_For": "127.0.0.1"}, {"Via": "1.1 proxy"}):
        answer = outcome(port, "add-button", ["/nowhere/bundle", None], **headers)
        assert "isitors from other machines cannot open folders" in answer
    assert "o model: enter a folder" in outcome(port, "add-button", ["", None])


@pytest.mark.parametrize(
    ("host", "allow_hosts", "names", "allowed"),
    [
        ("0.0.0.0", (), ("192.168.1.5", "[fe80::1]:80", "localhost", socket.gethostname()), True),
        ("::", (), ("192.168.1.5",), True),
        ("0.0.0.0", (), (FOREIGN, "999.1.1.1", "0x7f000001"), False),
        ("192.168.1.5", (), ("192.168.1.5:7860", "localhost"), True),
        ("192.168.1.5", (), ("192.168.1.6", FOREIGN), False),
        ("0.0.0.0", ("demo.example",), ("demo.example", "DEMO.example:443"), True),
        ("0.0.0.0", ("*",), (FOREIGN,), True),
    ],
)
def test_names_by_the_address_that_is_listened_on(host, allow_hosts, names, allowed):
    rule = HostRule(host, allow_hosts)
    for name in names:
        assert (rule.refusal([("Host", name)]) is None) == allowed


def test_origins_behind_a_proxy():
    rule = HostRule("127.0.0.1", ["demo.example"])
    own = [("Host", "127.0.0.1:7860"), ("X-Forwarded-Host", "demo.example")]
    assert rule.refusal([*own, ("Origin", "https://demo.example")]) is None
    assert "another origin" in rule.refusal([*own, ("Origin", f"https://{FOREIGN}")])
