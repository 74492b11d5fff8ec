"""One name for the same model in every command."""

import json
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

import tinyclip_edge
from tiny_bundle import write_tiny_bundle
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_edge.evaluation.open import names_of
from tinyclip_edge.paths import model_name
from tinyclip_edge.report.bundles import Bundle
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.golden import Replay
from tinyclip_edge.serve import create_app


@pytest.mark.parametrize(
    ("made", "model", "name"),
    [
        ("bundles/mine", "bundles/mine", "mine"),
        ("bundles/mine", "bundles/mine/", "mine"),
        ("bundles/mine", "bundles/mine/../mine", "mine"),
        ("runs/first/student", "runs/first", "first"),
        ("runs/first/student", "runs/first/student", "first"),
        ("models--owner--clip/snapshots/0a1b", "models--owner--clip/snapshots/0a1b", "owner/clip"),
        ("x", ".", "here"),
        ("x", "ViT-B-32/laion2b", "ViT-B-32/laion2b"),
        ("x", "starter-teacher", "starter-teacher"),
    ],
)
def test_a_folder_is_shown_by_its_own_name(tmp_path, monkeypatch, made, model, name):
    (tmp_path / "here" / made).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert model_name(model) == model_name(Path(model)) == name


def test_a_bundle_may_be_called_student(tmp_path):
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "manifest.json").touch()
    assert model_name(tmp_path / "student") == "student"


def test_a_link_has_a_name_of_its_own(tmp_path):
    (tmp_path / "bundle-7").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "bundle-7")
    assert model_name(tmp_path / "latest") == "latest"


def test_every_command_says_the_same(tmp_path, monkeypatch, command_line):
    monkeypatch.chdir(tmp_path)
    write_tiny_bundle(Path("bundles/original"))
    Path("bundles/original").rename("bundles/mine")  # the manifest has the first name still
    clip = tinyclip_edge.EdgeCLIP.load("bundles/mine")
    replayed = Replay("int8", 1.0, 1.0, 0.9, 1.0, 1.0, True, True)
    monkeypatch.setattr("tinyclip_edge.runtime.replay.replay", lambda *_, **__: replayed)
    checked = tinyclip_edge.check("bundles/mine")
    Image.new("RGB", (8, 8), "red").save("a.png")
    classified = command_line("classify", "a.png", "--labels", "cat,dog", "--json")[1]
    reported = Bundle(Path("bundles/mine"), Manifest.read(Path("bundles/mine")))
    names = [
        clip.name,
        checked.name,
        json.loads(classified)["model"],
        *names_of(["bundles/mine"]).values(),
        *ModelRegistry(["bundles/mine"]).names,
        reported.name,
    ]
    with TestClient(create_app(clip), base_url="http://127.0.0.1") as client:
        names.append(client.get("/health").json()["model"])
    assert names == ["mine"] * 7
