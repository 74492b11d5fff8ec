"""The server's answers are those of the library."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from starlette.testclient import TestClient

from served import BASE, data_url, picture, refused, vectors
from tinyclip_edge.serve import create_app


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


def test_punctuation_in_a_text_is_no_value(client):
    texts = [', [ { : \\ " é ' * 1000] * 5
    assert vectors(client.post("/embeddings", json={"input": texts})).shape[0] == 5


def test_names_that_are_no_utf8_are_found(clip, tmp_path):
    path = clip.index([picture()], ["\udcff.png"]).save(tmp_path / "pictures.npz")
    with TestClient(create_app(clip, index=path), base_url=BASE) as client:
        response = client.post("/search", json={"text": "a cat"})
    assert response.status_code == 200 and response.json()["results"][0]["key"] == "\udcff.png"
