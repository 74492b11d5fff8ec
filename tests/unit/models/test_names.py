"""MODEL strings judged without torch, against what open_clip itself says."""

import json
import os
import sys

import pytest

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import load_clip, names, teacher_rows, zoo_rows
from tinyclip_edge.models.library import open_clip
from tinyclip_edge.models.registry import compute_registry


def test_the_registry_in_the_package_is_what_is_computed():
    computed = json.loads(json.dumps(compute_registry()))
    stored = json.loads(names.REGISTRY.read_text(encoding="utf-8"))
    assert (stored["students"], stored["teachers"]) == (computed["students"], computed["teachers"])
    assert (zoo_rows(), teacher_rows()) == (computed["students"], computed["teachers"])
    if stored["open_clip"] == open_clip.__version__:
        assert stored["tags"] == computed["tags"]


def test_rows_belong_to_their_caller():
    zoo_rows()[0]["name"] = "mine"
    assert zoo_rows()[0]["name"] == "starter-50"


def test_names_are_those_of_the_installed_open_clip(monkeypatch):
    monkeypatch.delitem(sys.modules, "open_clip")
    assert names.open_clip_names() == frozenset(open_clip.list_models())


def test_tags_of_another_release_are_delegated_to_open_clip(monkeypatch):
    monkeypatch.setattr(names, "version", lambda _package: "99.0")
    assert names.pretrained_tags("ViT-B-32") is None
    names.check_model("ViT-B-32/brand-new")
    with pytest.raises(ModelError, match="has no pretrained tag or file 'brand-new'"):
        load_clip("ViT-B-32/brand-new")


def test_a_missing_open_clip_is_for_its_importer_to_name(monkeypatch):
    monkeypatch.delitem(sys.modules, "open_clip")
    monkeypatch.setattr(names, "find_spec", lambda _package: None)
    names.check_model("ViT-B-32/openai")


@pytest.mark.parametrize(
    "tag", ["laion2b_s34b_b79k", "LAION2B-s34b-b79k", "openai"]
)  # as open_clip looks them up
def test_tags_in_any_spelling_that_open_clip_takes(tag):
    assert open_clip.get_pretrained_cfg("ViT-B-32", tag)
    names.check_model(f"ViT-B-32/{tag}")
    names.check_model("ViT-B-32", tag)


def test_a_name_with_a_null_byte_names_nothing():
    with pytest.raises(ModelError):
        names.check_model("no\0thing")


def test_a_pipe_as_a_config_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ModelError, match=r"config\.json is neither a file nor a folder"):
        names.check_config(str(tmp_path / "config.json"))
