"""The server's answers are those of the library; every wrong request is one line."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.errors import BundleError, DataError
from tinyclip_edge.serve import ServerLimits, create_app

BASE = "http://127.0.0.1"


def picture(colour="red", size=(12, 9)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def data_url(content):
    return "data:image/png;base64," + base64.b64encode(content).decode()


@pytest.fixture(scope="module")
def clip(shared_tiny_bundle):
    return EdgeCLIP.load(shared_tiny_bundle.folder)


@pytest.fixture
def client(clip):
    with TestClient(create_app(clip), base_url=BASE) as client:
        yield client


def vectors(response):
    assert response.status_code == 200, response.text
    return np.array([row["embedding"] for row in response.json()["data"]], dtype=np.float32)


def refused(response, status):
    """The one line of a refusal."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert "\n" not in error["message"] and set(error) == {"message", "type", "param", "code"}
    return error["message"]


@pytest.mark.parametrize("route", ["/v1/embeddings", "/embeddings"])
def test_embeddings_of_texts_are_the_librarys(client, clip, route):
    texts = ["a cat", "a red dog", "a cat"]
    response = client.post(route, json={"model": "x", "input": texts})
    assert np.allclose(vectors(response), clip.encode_text(texts), atol=1e-6)
    body = response.json()
    assert [row["index"] for row in body["data"]] == [0, 1, 2] and body["model"] == clip.name
    assert body["usage"]["prompt_tokens"] == sum(len(clip.token_ids(text)) for text in texts)


def test_a_text_is_tokenized_once(client, clip, monkeypatch):
    """The figure of the answer's ``usage`` is that of the tokens that are embedded."""
    seen = []
    real = clip._parts.text_side()[0].encode
    monkeypatch.setattr(clip._parts.text_side()[0], "encode", lambda t: seen.append(t) or real(t))
    texts = ["a cat", "a red dog", "a cat"]
    usage = client.post("/embeddings", json={"input": texts}).json()["usage"]
    assert seen == texts and usage["total_tokens"] == sum(len(real(text)) for text in texts)


def test_pictures_are_data_urls_or_base64(client, clip):
    pictures = [picture("red"), picture("blue")]
    expected = clip.encode_image(pictures)
    urls = [data_url(content) for content in pictures]
    plain = [url.partition(",")[2] for url in urls]
    for body in ({"input": urls}, {"input": plain, "modality": "image"},
                 {"input": urls, "modality": "image"}):  # fmt: skip
        assert np.allclose(vectors(client.post("/embeddings", json=body)), expected, atol=1e-6)
    mixed = vectors(client.post("/embeddings", json={"input": ["a cat", urls[1]]}))
    assert np.allclose(mixed[0], clip.encode_text(["a cat"])[0], atol=1e-6)
    assert np.allclose(mixed[1], expected[1], atol=1e-6)


def test_base64_vectors_are_exact(client, clip):
    response = client.post("/embeddings", json={"input": "a cat", "encoding_format": "base64"})
    vector = np.frombuffer(base64.b64decode(response.json()["data"][0]["embedding"]), "<f4")
    assert np.array_equal(vector, clip.encode_text(["a cat"])[0])


def test_fewer_dimensions_are_normalised_again(client, clip):
    vector = vectors(client.post("/embeddings", json={"input": "a cat", "dimensions": 3}))[0]
    first = clip.encode_text(["a cat"])[0][:3]
    assert np.allclose(vector, first / np.linalg.norm(first), atol=1e-6)
    line = refused(client.post("/embeddings", json={"input": "a", "dimensions": 9999}), 400)
    assert line.startswith("dimensions is at most ")


def test_an_answer_below_a_threshold_is_unknown(client, clip):
    body = {"image": data_url(picture()), "labels": ["cat", "dog"]}
    best = clip.classify(picture(), body["labels"])[0][1]
    assert client.post("/classify", json=body).json()["unknown"] is None
    for threshold, unknown in ((best - 0.01, False), (best + 0.01, True)):
        answer = client.post("/classify", json={**body, "threshold": threshold}).json()
        assert answer["unknown"] is unknown and len(answer["labels"]) == 2
    line = refused(client.post("/classify", json={**body, "threshold": "calibrated"}), 400)
    assert "has no calibrated threshold" in line
    for wrong in (1.5, "often"):
        line = refused(client.post("/classify", json={**body, "threshold": wrong}), 400)
        assert line.startswith("threshold")


def test_classification_is_the_librarys(client, clip):
    labels, templates = ["cat", "dog", "a red bicycle"], ["a {}", "the {}"]
    body = {"image": data_url(picture()), "labels": labels, "templates": templates, "top": 2}
    answer = client.post("/classify", json=body).json()["labels"]
    expected = clip.classify(picture(), labels, templates)[:2]
    assert [row["label"] for row in answer] == [label for label, _ in expected]
    assert [row["probability"] for row in answer] == [
        pytest.approx(chance, abs=1e-6) for _, chance in expected
    ]


def test_search_follows_an_index_that_changes(clip, tmp_path):
    path = tmp_path / "pictures.npz"
    pictures = {name: picture(name) for name in ("red", "lime", "blue")}
    clip.index(list(pictures.values()), list(pictures)).save(path)
    with TestClient(create_app(clip, index=path), base_url=BASE) as client:
        body = {"text": "a cat", "image": data_url(picture("lime")), "without": ["red"], "top": 2}
        query = (
            clip.encode_text(["a cat"])[0]
            + clip.encode_image([picture("lime")])[0]
            - clip.encode_text(["red"])[0]
        )
        expected = clip.search(query, clip.index(list(pictures.values()), list(pictures)), 2)
        results = client.post("/search", json=body).json()["results"]
        assert [row["key"] for row in results] == [hit.key for hit in expected]
        assert [row["score"] for row in results] == [
            pytest.approx(hit.score, abs=1e-5) for hit in expected
        ]
        clip.index([picture("red")], ["only"]).save(path)
        assert client.post("/search", json={"text": "a cat"}).json()["results"][0]["key"] == "only"
        (tmp_path / "junk").write_bytes(b"junk")
        (tmp_path / "junk").replace(path)  # no index: the last one answers
        assert client.post("/search", json={"text": "a cat"}).json()["results"][0]["key"] == "only"
        assert "text or image" in refused(client.post("/search", json={}), 400)
        assert "top" in refused(client.post("/search", json={"text": "a", "top": 10_000}), 400)


def test_a_server_without_an_index_says_how_to_get_one(client):
    line = refused(client.post("/search", json={"text": "a cat"}), 404)
    assert line == "this server has no index: start it with --index INDEX"


def test_an_index_of_another_model_or_none_stops_the_start(clip, tmp_path):
    path = tmp_path / "other.npz"
    index = clip.index([picture()], ["red"])
    type(index)(index.keys, index.features, "another-int8").save(path)
    with pytest.raises(BundleError, match="made by model another-int8"):
        create_app(clip, index=path)
    with pytest.raises(DataError, match="no index"):
        create_app(clip, index=tmp_path / "missing.npz")


@pytest.mark.parametrize(
    ("route", "body", "status", "line"),
    [
        ("/embeddings", {"input": []}, 400, "input is empty"),
        ("/embeddings", {"input": [[1, 2, 3]]}, 400, "input"),
        ("/embeddings", {"input": 5}, 400, "input"),
        ("/embeddings", {"input": "a", "colour": "red"}, 400, "colour: Extra inputs"),
        ("/embeddings", {"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ("/embeddings", {"input": ["a"] * 300}, 413, "300 inputs; at most 256"),
        ("/embeddings", {"input": "a" * 30_000}, 413, "text 0 has 30,000 characters"),
        ("/embeddings", {"input": "http://x.example/a.png", "modality": "image"}, 400,
         "image 0: send the picture itself"),
        ("/embeddings", {"input": "file:///etc/passwd", "modality": "image"}, 400,
         "picture itself"),
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


def test_metrics_count_by_route_and_status(client):
    client.post("/embeddings", json={"input": ["a", "b"]})
    client.post("/embeddings", json={})
    client.get("/" + "x" * 50)
    text = client.get("/metrics").text
    assert 'tinyclip_edge_requests_total{route="/embeddings",status="200"} 1.0' in text
    assert 'tinyclip_edge_requests_total{route="/embeddings",status="400"} 1.0' in text
    assert 'tinyclip_edge_requests_total{route="other",status="404"} 1.0' in text
    assert 'tinyclip_edge_batch_size_sum{tower="text"} 2.0' in text
    assert 'tinyclip_edge_waiting{tower="text"} 0.0' in text


def test_health_and_the_list_of_models(client, clip):
    answer = {"status": "ok", "model": clip.name, "precision": clip.precision}
    assert client.get("/health").json() == answer
    assert [row["id"] for row in client.get("/v1/models").json()["data"]] == [clip.name]


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


def test_punctuation_in_a_text_is_no_value(client):
    texts = [', [ { : \\ " é ' * 1000] * 5
    assert vectors(client.post("/embeddings", json={"input": texts})).shape[0] == 5


def test_a_body_of_another_encoding_is_refused(client):
    content = '{"input": "a"}'.encode("utf-16")
    line = refused(client.post("/embeddings", content=content), 400)
    assert line == "the request's body is not UTF-8"


def test_names_that_are_no_utf8_are_found(clip, tmp_path):
    path = clip.index([picture()], ["\udcff.png"]).save(tmp_path / "pictures.npz")
    with TestClient(create_app(clip, index=path), base_url=BASE) as client:
        response = client.post("/search", json={"text": "a cat"})
    assert response.status_code == 200 and response.json()["results"][0]["key"] == "\udcff.png"
