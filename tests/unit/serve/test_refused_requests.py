"""Every wrong request is refused in one line."""

from __future__ import annotations

import json

import pytest
from starlette.testclient import TestClient

from served import BASE, data_url, picture, refused
from tinyclip_edge.errors import BundleError, DataError
from tinyclip_edge.serve import ServerLimits, create_app

JSON = "application/json"


def test_a_server_without_an_index_says_how_to_get_one(client):
    line = refused(client.post("/search", json={"text": "a cat"}), 404)
    assert line == "this server has no index: start it with --index INDEX"


def test_an_index_of_another_model_or_none_stops_the_start(clip, tmp_path):
    path = tmp_path / "other.npz"
    index = clip.index([picture()], ["red"])
    type(index)(index.keys, index.features, "another-int8").save(path)
    with pytest.raises(BundleError, match="made by model another-int8"):
        create_app(clip, index=path)
    with pytest.raises(DataError, match=r"^no such index: .*missing\.npz; make one with"):
        create_app(clip, index=tmp_path / "missing.npz")


@pytest.mark.parametrize(
    ("route", "body", "status", "line"),
    [
        ("/embeddings", {"input": []}, 400, "input is empty"),
        ("/embeddings", {"input": [[1, 2, 3]]}, 400, "input.0: Input should be a valid string"),
        ("/embeddings", {"input": 5}, 400, "input: Input should be a valid"),
        ("/embeddings", {"input": "a", "colour": "red"}, 400, "colour: Extra inputs"),
        ("/embeddings", {"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ("/embeddings", {"input": ["a"] * 300}, 413, "300 inputs; at most 256"),
        ("/embeddings", {"input": "a" * 30_000}, 413, "text 0 has 30,000 characters"),
        ("/embeddings", {"input": "http://x.example/a.png", "modality": "image"}, 400,
         "image 0: send the picture itself"),
        ("/embeddings", {"input": "file:///etc/passwd", "modality": "image"}, 400,
         "picture itself"),
        ("/embeddings", {"input": ["a cat", "https://x.example/a.png"]}, 400,
         "input 1 is an address: send the picture itself"),
        ("/embeddings", {"input": "FILE:///etc/passwd"}, 400, "input 0 is an address"),
        ("/embeddings", {"input": "data:,hello"}, 400, "input 0 is an address"),
        ("/embeddings", {"input": "DATA:image/png;base64,AAAA"}, 400,
         "image 0 is not a supported"),
        ("/embeddings", {"input": "no base64!", "modality": "image"}, 400, "image 0: not base64"),
        ("/embeddings", {"input": "data:image/png,abc", "modality": "image"}, 400,
         "a data URL must"),
        ("/embeddings", {"input": "AAAA", "modality": "image"}, 400, "image 0 is not a supported"),
        ("/classify", {"image": "AAAA", "labels": ["a"]}, 400, "image 0 is not a supported"),
        ("/classify", {"image": "AAAA", "labels": []}, 400, "labels: List should have"),
        ("/classify", {"labels": ["a"]}, 400, "image: Field required"),
        ("/classify", [1], 400, "body: Input should be"),
    ],
)  # fmt: skip
def test_wrong_requests_are_one_line(client, route, body, status, line):
    assert line in refused(client.post(route, json=body), status)


def test_a_body_that_is_not_json(client):
    response = client.post("/embeddings", content="{bad", headers={"content-type": JSON})
    assert refused(response, 400) == "body: not JSON from character 1 on"


def test_an_address_is_a_text_if_the_request_says_so(client):
    body = {"input": "https://x.example/a.png", "modality": "text"}
    assert client.post("/embeddings", json=body).status_code == 200
    assert client.post("/embeddings", json={"input": "data: a chart, a table"}).status_code == 200


def test_labels_that_the_model_cannot_tell_apart(client):
    body = {"image": data_url(picture()), "labels": ["cat", "cat"]}
    assert "appears more than once" in refused(client.post("/classify", json=body), 400)
    body["labels"] = [f"label {number}" for number in range(5000)]
    assert "5,000 prompts" in refused(client.post("/classify", json=body), 413)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 10_000, b'{"input": "\\ud800"}', b'{"input": NaN}'],
)
def test_what_is_no_request_is_one_line(client, content):
    response = client.post(
        "/embeddings", content=content, headers={"content-type": "application/json"}
    )
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        refused(response, 400)


def test_unknown_addresses_and_methods(client):
    refused(client.get("/etc/passwd"), 404)
    refused(client.get("/embeddings"), 405)
    assert client.get("/docs").status_code == 404  # its page would load scripts from elsewhere


def test_large_pictures_are_refused_before_they_are_decoded(clip):
    limits = ServerLimits(image_pixels=100)
    with TestClient(create_app(clip, limits=limits), base_url=BASE) as client:
        line = refused(client.post("/embeddings", json={"input": data_url(picture())}), 413)
        assert line == "image 0 has 12x9 pixels; this server decodes at most 100"


def test_large_bodies_are_refused_whether_they_say_their_length_or_not(clip):
    with TestClient(create_app(clip, limits=ServerLimits(request_bytes=1000)), base_url=BASE) as it:
        long = json.dumps({"input": "a" * 2000})
        assert "more than 1,000 bytes" in refused(it.post("/embeddings", content=long), 413)
        parts = (long[start : start + 100].encode() for start in range(0, len(long), 100))
        assert "more than 1,000 bytes" in refused(it.post("/embeddings", content=parts), 413)


def test_keys_open_every_route_but_health(clip):
    with TestClient(create_app(clip, keys=["one", "two"]), base_url=BASE) as client:
        assert client.get("/health").status_code == 200
        for headers in ({}, {"authorization": "Bearer three"}, {"authorization": "one"}):
            response = client.post("/embeddings", json={"input": "a"}, headers=headers)
            assert "needs a key" in refused(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
            assert client.get("/metrics", headers=headers).status_code == 401
        response = client.post(
            "/embeddings", json={"input": "a"}, headers={"authorization": "Bearer two"}
        )
        assert response.status_code == 200


def test_foreign_hosts_and_origins_are_refused(client):
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
        assert client.get("/health", headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("labels", "templates"),
    [(["x" * 20_000, "y"], ["{}" * 20_000]), (["a"] * 60, ["b {}" + "c" * 20_000])],
)
def test_prompts_that_grow_beyond_bounds_are_refused(client, labels, templates):
    body = {"image": data_url(picture()), "labels": labels, "templates": templates}
    assert "characters; at most 1,000,000" in refused(client.post("/classify", json=body), 413)


@pytest.mark.parametrize("content", [
    b'{"input": [' + b"0," * 30_000 + b"0]}",
    b'{"input": [' + b"[]," * 20_000 + b"0]}",
    b'{"input": [' + b'"",' * 30_000 + b'""]}',
])  # fmt: skip
def test_many_values_are_refused_unparsed(client, content, monkeypatch):
    monkeypatch.setattr("starlette.requests.Request.json", None)
    headers = {"content-type": "application/json"}
    line = refused(client.post("/embeddings", content=content, headers=headers), 413)
    assert "it has more than 20,000" in line


def test_a_body_of_another_encoding_is_refused(client):
    content = '{"input": "a"}'.encode("utf-16")
    line = refused(client.post("/embeddings", content=content), 400)
    assert line == "the request's body is not UTF-8"
