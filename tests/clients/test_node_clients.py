"""A bundle in transformers.js under Node: tokenizer, both tower classes and the pipeline."""

import json

import pytest

from bundle_clients import HERE, PACKAGES


@pytest.fixture(scope="module")
def answers(ask_node, opened):
    return dict(zip(("fp32", "q8"), ask_node(opened.job("fp32"), opened.job("q8")), strict=True))


@pytest.mark.parametrize("dtype", ["fp32", "q8"])
def test_transformers_js_gives_pytorchs_answers(answers, opened, dtype):
    opened.check(dtype, answers[dtype])


def test_transformers_js_cuts_the_end_token_off_a_long_text(answers, opened):
    """A limit of that client which the model card tells: the tower then pools at another token."""
    long = answers["fp32"]["long"]
    assert len(long) == opened.context and opened.end not in long


def test_packages_are_the_pinned_ones(node):
    pinned = json.loads((HERE / "package.json").read_text())["dependencies"]
    for name, version in pinned.items():
        assert json.loads((PACKAGES / name / "package.json").read_text())["version"] == version
