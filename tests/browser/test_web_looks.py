"""The browser page: small shares and strange pictures are said, and a phone shows all of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from page_checks import faults
from tinyclip_edge.runtime.familiarity import (
    LOOKS,
    Familiarity,
    looks,
    packed,
    quantiles,
    unpacked,
    whitened,
)
from web_page import MARKS, open_page, self_test, silent_tab

pytestmark = MARKS
SHOW = """async ([rows, familiar, unknown]) => {
  const { showAnswer } = await import(new URL("js/view.js", location.href));
  const ms = { preprocess: 1, encode: 1, compare: 1 };
  showAnswer({ rows, familiar, unknown, ms, size: [8, 8] }, { texts: 2, ms: 1 }, null);
}"""
JUDGE = """async ([manifest, pictures]) => {
  const { Familiarity, looks } = await import(new URL("js/familiarity.js", location.href));
  const familiarity = Familiarity.of(manifest, "int8");
  return pictures.map(({ embedding, pixels, height, width }) => ({
    looks: looks(pixels, height, width),
    rarity: familiarity.embedding.rarity(embedding),
    knows: familiarity.knows(embedding, pixels, height, width),
  }));
}"""


@pytest.mark.slow
def test_shares_below_the_precision_and_strange_pictures_are_said(tab):
    rows = [{"label": "cat", "chance": 0.9996}, {"label": "dog", "chance": 0.0004}]
    tab.evaluate(SHOW, [rows, False])
    assert tab.locator("#bars li").nth(1).inner_text().split("\n")[-1] == "<0.1 %"
    assert "unlike those that the model was trained on" in tab.inner_text("#unknown")
    for familiar in (True, None):
        tab.evaluate(SHOW, [rows, familiar])
        assert not tab.locator("#unknown").is_visible()


DECIDE = """async ([manifest, labels, templates]) => {
  const { decisionOf } = await import(new URL("js/confidence.js", location.href));
  return decisionOf(manifest, "int8", labels, templates);
}"""


@pytest.mark.slow
def test_pictures_of_none_of_the_labels_are_said(tab):
    rows = [{"label": "cat", "chance": 0.5}, {"label": "dog", "chance": 0.3}]
    tab.evaluate(SHOW, [rows, None, True])
    assert tab.inner_text("#verdict") == "None of these. The nearest: cat, 50.0 %"
    tab.evaluate(SHOW, [rows, None, False])
    assert tab.inner_text("#verdict") == "cat, 50.0 %"
    own = {"temperature": 0.5, "threshold": 0.6}
    entry = {"labels": ["cat", "dog"], "templates": ["{}"], "precisions": {"int8": own}}
    manifest = {"name": "toy", "confidence": entry}
    always = {"temperature": 1, "threshold": None}
    both = ["dog", "cat"]
    for labels, templates, expected in (
        (both, ["{}"], own), (["cat"], ["{}"], always), (both, ["a {}"], always),
    ):  # fmt: skip
        assert tab.evaluate(DECIDE, [manifest, labels, templates]) == expected
    assert tab.evaluate(DECIDE, [{"name": "toy", "confidence": {}}, ["a"], ["{}"]]) == always


@pytest.mark.slow
def test_familiarity_is_that_of_python(tab):
    random = np.random.default_rng(0)
    features = random.normal(size=(200, 8)).astype(np.float32)
    pictures = np.cumsum(random.normal(size=(200, 3, 14, 11)), axis=2).astype(np.float32)
    seen = looks(pictures)
    embedding, look = packed(*whitened(features, 5)), packed(*whitened(seen, LOOKS))
    look["quantiles"] = quantiles(unpacked(look, [0.0], LOOKS).values(seen))
    listed = quantiles(unpacked(embedding, [0.0], 8).values(features))
    entry = {"embedding": embedding, "looks": look,
             "precisions": {"int8": {"quantiles": listed, "threshold": 0.3}}}  # fmt: skip
    manifest = {"familiarity": entry, "embedding_dim": 8, "name": "toy"}
    expected = Familiarity.of(SimpleNamespace(**manifest), "int8")
    asked = [
        {"embedding": row.tolist(), "pixels": pixels.flatten().tolist(), "height": 14, "width": 11}
        for row, pixels in zip(features[:20], pictures[:20], strict=True)
    ]
    answers = tab.evaluate(JUDGE, [manifest, asked])
    np.testing.assert_allclose([one["looks"] for one in answers], seen[:20], rtol=1e-4, atol=1e-5)
    rarity = expected.embedding.rarity(features[:20])
    np.testing.assert_allclose([one["rarity"] for one in answers], rarity, atol=0.0101)
    known = expected.knows(features[:20], pictures[:20])
    assert [one["knows"] for one in answers] == known and len(set(known)) == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.slow
def test_a_phone_shows_everything_legibly(browser, server, scheme):
    view = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme}
    with silent_tab(browser, **view) as tab:
        open_page(tab, server)
        _, rows = self_test(tab)
        assert rows and faults(tab) == {}
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert tab.evaluate(wide) <= 0
