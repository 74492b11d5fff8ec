"""The code of docs/howto/applications.md gives the golden vectors, in other people's packages."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest

from tinyclip_edge.api.bundles import check
from tinyclip_edge.runtime.bundle import Manifest, list_files

application = pytest.mark.application
infinity = pytest.mark.infinity


@application
def test_fastembed_opens_the_bundle(desk):
    text, picture = desk.differences(desk.run("fastembed"), "int8")
    assert text < 1e-6 and picture < 1e-6


@application
def test_sentence_transformers_open_the_hugging_face_form(desk):
    names = desk.run("sentence-transformers")
    text, picture = desk.differences(names, "fp32")
    assert text < 1e-5 and picture < 1e-3  # transformers resizes in torch
    long = names["model"].encode(["dog " * 200, "dog " * 300])
    np.testing.assert_array_equal(long[0], long[1])  # both are cut to the context


@application
def test_transformers_pipelines_open_the_hugging_face_form(desk):
    names = desk.run("transformers")
    text, picture = desk.differences(names, "fp32")
    assert text < 1e-5 and picture < 1e-3
    scores = {entry["label"]: entry["score"] for entry in names["scores"]}
    from tinyclip_edge import EdgeCLIP

    clip = EdgeCLIP.load(desk.bundle, precision="fp32")
    expected = dict(clip.classify("photo.png", ["bicycle", "anchor"]))
    assert scores == pytest.approx(expected, abs=2e-3)


@infinity
def test_infinity_opens_the_hugging_face_form(desk):
    text, picture = desk.differences(desk.run("infinity"), "fp32")
    assert text < 1e-5 and picture < 1e-5  # transformers 4 resizes in Pillow


@application
def test_a_string_and_a_file_give_the_golden_vectors(desk):
    names = desk.run("A string or a JPEG in")
    text, picture = desk.differences(names, "int8")
    assert text < 1e-6 and picture < 0.02  # int8 of pixels that may differ by a level
    assert names["ids"][0].tolist() == desk.manifest["golden"]["texts"][0]["input_ids"]
    golden = json.loads((desk.bundle / "golden" / "vectors.json").read_text())
    for row, entry in enumerate(golden["texts"]):
        feed = {"text": np.array([entry["text"]], object)}
        (vector,), (ids,) = names["texts"].run(None, feed)
        assert ids.tolist() == entry["input_ids"]
        expected = golden["embeddings"]["int8"]["text"][row]
        assert vector @ expected >= golden["least_cosine"]["int8"]["text"]
    assert golden["pictures"] == ["0.jpg", "1.png", "2.jpg", "3.png"]
    for row, name in enumerate(golden["pictures"]):
        content = np.fromfile(desk.bundle / "golden" / name, np.uint8)
        ((vector,),) = names["pictures"].run(None, {"image": content})
        expected = golden["embeddings"]["int8"]["image"][row]
        assert vector @ expected >= golden["least_cosine"]["int8"]["image"]


@application
def test_check_replays_the_golden_folder(desk, tmp_path):
    result = check(desk.bundle)
    names = [f"{each} from {kind}" for kind in ("strings", "encoded pictures")
             for each in ("fp32", "int8")]  # fmt: skip
    assert [each.name for each in result.forms] == names
    assert result.passed and not result.not_replayed
    changed = shutil.copytree(desk.bundle, tmp_path / "changed")
    vectors = json.loads((changed / "golden/vectors.json").read_text())
    vectors["embeddings"]["fp32"]["image"].reverse()
    (changed / "golden/vectors.json").write_text(json.dumps(vectors))
    replace(Manifest.read(changed), files=list_files(changed)).write(changed)
    (failure,) = check(changed).failures
    assert failure.startswith("fp32 from encoded pictures image cosine")


@application
def test_what_an_export_with_strings_says(desk):
    strings, pictures = (desk.manifest["extras"][key] for key in ("strings", "encoded_pictures"))
    assert strings["captions"] == 12 and strings["captions_with_other_ids"] == 0
    assert "ﬁne" in strings["other_ids"] and min(strings["cosine_min"].values()) > 0.9999
    assert pictures["pixel_levels_max"] <= 8 and min(pictures["cosine_min"].values()) > 0.999
    listed = desk.manifest["files"]
    assert {"golden/vectors.json", "golden/0.jpg", *strings["files"].values()} < set(listed)


@application
def test_a_string_tower_needs_the_extension(desk):
    path = desk.bundle / "onnx/string_text_model.onnx"
    with pytest.raises(Exception, match=r"ai\.onnx\.contrib"):
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
