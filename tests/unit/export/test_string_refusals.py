"""``--embed-tokenizer`` is refused before the export's work where it cannot be had."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import onnx
import pytest

from tinyclip_edge.cli.export_options import ContentOptions
from tinyclip_edge.errors import ConfigError, MissingExtraError
from tinyclip_export import export_bundle
from tinyclip_export.bundle import extension_operators, string_text_tower
from tinyclip_export.bundle.string_text_tower import check_tokenizer
from tinyclip_export.bundle.tokenizer_graph import StringTower, tokenizer_graph
from tinyclip_export.layout import InputForm
from tinyclip_export.settings import ExportSettings, Extras

WITH_STRINGS = ExportSettings(extras=Extras(embed_tokenizer=True))


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(string_text_tower, "require_extension", lambda: None)


def test_the_missing_package_is_named_before_the_model_is_read(monkeypatch):
    monkeypatch.setattr(extension_operators, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime-extensions .*\[extensions\]"):
        ContentOptions(embed_tokenizer=True).read()


def test_another_family_is_refused_by_name(toy_teacher, installed, tmp_path):
    class Unigram:
        pass

    inner = type("XLMRobertaTokenizer", (), {"backend_tokenizer": SimpleNamespace(model=Unigram())})
    other = SimpleNamespace(tokenizer=inner(), strip_sep_token=False)
    clip = replace(toy_teacher, tokenizer=other)
    with pytest.raises(ConfigError, match=r"toy-teacher .*\(XLMRobertaTokenizer, Unigram\)"):
        export_bundle(clip, tmp_path / "out", pairs=([1, 2], ["a", "b"]), settings=WITH_STRINGS)
    assert not (tmp_path / "out").exists()


def test_words_that_are_split_otherwise_are_refused(toy_teacher, installed, tmp_path):
    path = tmp_path / "tokenizer.json"
    content = json.loads(toy_teacher.tokenizer_file.read_text())
    content["pre_tokenizer"] = {"type": "Whitespace"}
    path.write_text(json.dumps(content))
    check_tokenizer(toy_teacher, None)
    with pytest.raises(ConfigError, match="other words than CLIP's"):
        check_tokenizer(replace(toy_teacher, tokenizer_file=path), None)


def test_a_fixed_batch_of_several_is_refused(toy_teacher, installed):
    check_tokenizer(toy_teacher, 1)
    with pytest.raises(ConfigError, match="one text at a time, not 4"):
        check_tokenizer(toy_teacher, 4)


def test_the_graph_is_valid_and_names_clips_tokens(toy_teacher):
    """Special tokens of other names get those that the operator looks for."""
    content = json.loads(toy_teacher.tokenizer_file.read_text())
    ids = {token["content"]: token["id"] for token in content["added_tokens"]}
    start, end = ids["<|startoftext|>"], ids["<|endoftext|>"]
    graph = tokenizer_graph(StringTower(toy_teacher.tokenizer_file, start, end, 16, InputForm()))
    onnx.checker.check_model(graph)
    (node,) = (node for node in graph.graph.node if node.op_type == "CLIPTokenizer")
    attributes = {attribute.name: attribute.s.decode() for attribute in node.attribute}
    vocabulary = json.loads(attributes["vocab"])
    assert vocabulary["<|startoftext|>"] == start and vocabulary["<|endoftext|>"] == end
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert attributes["merges"].split("\n")[0].count(" ") == 1
