from __future__ import annotations

import hashlib
import json

import pytest

from tinyclip_edge.errors import BundleError
from tinyclip_edge.runtime.bundle import Manifest, bundle_file, list_files
from tinyclip_edge.runtime.edge import EdgeCLIP


def edit(bundle, **changes):
    path = bundle.folder / "manifest.json"
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_what_is_written_is_read(tiny_bundle):
    manifest = Manifest.read(tiny_bundle.folder)
    before = (tiny_bundle.folder / "manifest.json").read_bytes()
    manifest.write(tiny_bundle.folder)
    assert Manifest.read(tiny_bundle.folder) == manifest
    assert (tiny_bundle.folder / "manifest.json").read_bytes() == before
    assert manifest.precisions() == ["fp32", "int8"]


def test_hashes_are_sha256_of_every_file_but_the_manifest(tiny_bundle):
    files = list_files(tiny_bundle.folder)
    tokenizer = (tiny_bundle.folder / "tokenizer.json").read_bytes()
    assert files["tokenizer.json"] == {
        "sha256": hashlib.sha256(tokenizer).hexdigest(),
        "bytes": len(tokenizer),
    }
    assert "manifest.json" not in files and "onnx/text_model.onnx" in files


def test_no_bundle_and_no_json(tmp_path):
    with pytest.raises(BundleError, match="not a bundle"):
        Manifest.read(tmp_path)
    for content in (b"{", b"\xff\xfe", b"[" * 100_000):
        (tmp_path / "manifest.json").write_bytes(content)
        with pytest.raises(BundleError, match="cannot read"):
            Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "zip"}, '"format" is not'),
        ({"format_version": 2}, "format_version 2 is newer than 1"),
        ({"format_version": True}, "format_version True"),
        ({"format_version": "1"}, "format_version '1'"),
        ({"logit_scale": None}, "'logit_scale' is missing"),
        ({"logit_scale": "50"}, "logit_scale must be a number, not text"),
        ({"logit_scale": float("nan")}, "logit_scale nan is not a number above 0"),
        ({"image_size": True}, "image_size must be a whole number, not true or false"),
        ({"image_size": 0}, "image_size 0 is not a whole number from 1 to 1,048,576"),
        ({"context_length": 1}, "context_length 1 is not a whole number from 2"),
        ({"recipe": []}, "recipe must be an object, not a list"),
        ({"recipe": {"int8": 3}}, r"recipe\.int8 must be an object"),
        ({"image_size": 10**9}, "image_size 1000000000 is not a whole number from 1 to"),
        ({"logit_scale": 10**400}, "logit_scale"),
        ({"inputs": {"batch": 10**9}}, r"inputs\.batch 1000000000 is not a whole number from 1"),
        ({"parameters": {"image": 1}}, r"parameters\.text"),
        ({"default_precision": "int4"}, "default_precision 'int4'"),
        ({"towers": {"image": {"fp32": "onnx/vision_model.onnx"}}}, r"'towers\.text' is missing"),
        ({"towers": {"image": {"fp32": "x.onnx"}, "text": {}}}, r"'x\.onnx' is not in files"),
        ({"towers": {"image": {"int8": []}, "text": {}}}, r"towers\.image\.int8 must be text"),
        ({"inputs": {"padding": "left"}}, r"inputs\.padding must be none or max_length"),
        ({"logit_bias": True}, "logit_bias must be a number, not true or false"),
        ({"default_precision": {}}, "default_precision must be text, not an object"),
    ],
)
def test_wrong_manifests_name_the_key(tiny_bundle, changes, message):
    edit(tiny_bundle, **changes)
    with pytest.raises(BundleError, match=message) as caught:
        Manifest.read(tiny_bundle.folder)
    assert "manifest.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_manifest_that_is_a_list(tiny_bundle):
    (tiny_bundle.folder / "manifest.json").write_text("[]")
    with pytest.raises(BundleError, match="does not contain a JSON object"):
        Manifest.read(tiny_bundle.folder)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "onnx/../../x", "C:\\x", "C:x", "a\\..\\x", "\\\\host\\x", ""]
)
def test_paths_out_of_the_folder_are_refused(tiny_bundle, name):
    files = {**list_files(tiny_bundle.folder), name: {"sha256": "0" * 64, "bytes": 1}}
    edit(tiny_bundle, files=files)
    with pytest.raises(BundleError, match="outside the bundle"):
        Manifest.read(tiny_bundle.folder)


def test_a_changed_byte_is_detected_and_both_hashes_named(tiny_bundle):
    manifest = Manifest.read(tiny_bundle.folder)
    manifest.verify_files(tiny_bundle.folder)
    name = "onnx/text_model_quantized.onnx"
    path = tiny_bundle.folder / name
    content = bytearray(path.read_bytes())
    old = hashlib.sha256(content).hexdigest()
    content[-1] ^= 1
    path.write_bytes(content)
    new = hashlib.sha256(content).hexdigest()
    with pytest.raises(BundleError, match="text_model_quantized") as caught:
        manifest.verify_files(tiny_bundle.folder)
    assert old[:12] in str(caught.value) and new[:12] in str(caught.value)
    manifest.verify_files(tiny_bundle.folder, only=["onnx/text_model.onnx"])


def test_missing_and_unlisted_files(tiny_bundle):
    manifest = Manifest.read(tiny_bundle.folder)
    (tiny_bundle.folder / "onnx/text_model.onnx").unlink()
    with pytest.raises(BundleError, match=r"text_model\.onnx is missing"):
        manifest.verify_files(tiny_bundle.folder)
    with pytest.raises(BundleError, match="not listed"):
        manifest.verify_files(tiny_bundle.folder, only=["other.onnx"])


def test_an_unknown_precision_is_suggested(tiny_bundle):
    with pytest.raises(BundleError, match="did you mean 'int8'"):
        Manifest.read(tiny_bundle.folder).tower_path("image", "int9")


def test_a_bad_manifest_is_not_written(tiny_bundle):
    from dataclasses import replace

    manifest = Manifest.read(tiny_bundle.folder)
    before = (tiny_bundle.folder / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="embedding_dim 0"):
        replace(manifest, embedding_dim=0).write(tiny_bundle.folder)
    assert (tiny_bundle.folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("precision", "recipe", "image", "text"),
    [
        ("int8", {"kind": "dynamic", "reduce_range": True}, False, False),
        ("int8", {"kind": "dynamic", "reduce_range": False}, True, True),
        ("int8", {}, True, True),  # nobody says how it was made
        ("static", {"kind": "static", "reduce_range": True}, False, False),
        ("static", {"kind": "static", "reduce_range": False}, True, True),
        ("static", {}, True, True),
        ("uint8", {"kind": "dynamic", "weights": "uint8", "reduce_range": True}, False, False),
        (  # a convolutional image tower: its own recipe counts for it, the text's for both
            "uint8",
            {"kind": "dynamic", "reduce_range": False, "image": {"reduce_range": False}},
            True,
            True,
        ),
        ("int8", {"reduce_range": False, "image": {"reduce_range": True}}, False, True),
        ("fp16", {"kind": "float"}, False, False),
        ("w8", {"kind": "weight only", "weights": "8 bit"}, False, False),
        ("q4", {"kind": "weight only"}, False, False),
        ("q4f16", {"kind": "weight only", "half": True}, False, False),
        ("bnb4", {"kind": "weight only"}, False, False),
        ("fp32", {}, False, False),
    ],
)
def test_which_files_overflow_without_vnni(tiny_bundle, precision, recipe, image, text):
    edit(tiny_bundle, recipe={precision: recipe})
    manifest = Manifest.read(tiny_bundle.folder)
    assert manifest.saturates("image", precision) is image
    assert manifest.saturates("text", precision) is text


def move_aside(bundle, name, place):
    """Put a file elsewhere and leave a link to it."""
    path = bundle.folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    path.rename(place)
    path.symlink_to(place)


@pytest.mark.parametrize("place", ["outside", "bundle/inside.bin"])
@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json", "onnx/text_model.onnx"])
def test_links_are_refused_wherever_they_lead(tiny_bundle, tmp_path, name, place):
    place = tmp_path / place if place == "outside" else tiny_bundle.folder / "inside.bin"
    move_aside(tiny_bundle, name, place)
    with pytest.raises(BundleError, match=rf"{name} is a link to another file; copy the bundle"):
        EdgeCLIP.load(tiny_bundle.folder, precision="fp32")
    if name != "manifest.json":
        with pytest.raises(BundleError, match="is a link to another file"):
            Manifest.read(tiny_bundle.folder).verify_files(tiny_bundle.folder)


def test_a_folder_that_is_a_link_is_refused_too(tiny_bundle, tmp_path):
    (tiny_bundle.folder / "onnx").rename(tmp_path / "elsewhere")
    (tiny_bundle.folder / "onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"onnx/vision_model\S* is a link"):
        EdgeCLIP.load(tiny_bundle.folder)


def test_a_bundle_may_be_reached_through_a_link(tiny_bundle, tmp_path):
    (tmp_path / "newest").symlink_to(tiny_bundle.folder)
    assert EdgeCLIP.load(tmp_path / "newest").encode_text(["cat"]).shape == (1, 4)


def test_snapshots_of_the_hub_s_cache_open(tiny_bundle, tmp_path):
    """Their files are links into blobs; a link out of the cache is still refused."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(tiny_bundle.folder.rglob("*"))):
        if path.is_file():
            link = snapshot / path.relative_to(tiny_bundle.folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            (blobs / str(number)).write_bytes(path.read_bytes())
            link.symlink_to(blobs / str(number))
    assert EdgeCLIP.load(snapshot).encode_text(["cat"]).shape == (1, 4)
    (tmp_path / "secret").write_bytes((tiny_bundle.folder / "tokenizer.json").read_bytes())
    blob = (snapshot / "tokenizer.json").resolve()
    blob.unlink()
    blob.symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match=r"tokenizer\.json is a link"):
        EdgeCLIP.load(snapshot)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "C:/x", "a\\b", "a\0b"])
def test_no_name_leads_out_of_a_bundle(tmp_path, name):
    with pytest.raises(BundleError, match="is outside the bundle"):
        bundle_file(tmp_path, name)


def test_a_repeated_key_is_refused(tiny_bundle):
    path = tiny_bundle.folder / "manifest.json"
    path.write_text(path.read_text().replace("{", '{"name": "another", ', 1))
    with pytest.raises(BundleError, match=r"cannot read .*: a key is repeated"):
        Manifest.read(tiny_bundle.folder)
