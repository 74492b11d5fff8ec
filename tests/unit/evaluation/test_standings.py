from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image
from toy_embedders import ColourEmbedder, square

import tinyclip_edge
from report_page import Page
from tinyclip_edge.errors import ConfigError, DataError, ModelError, TinyClipWarning
from tinyclip_edge.evaluation import many_sets
from tinyclip_edge.evaluation.many_sets import rank_models
from tinyclip_edge.evaluation.resampling import PictureHits, Resampling
from tinyclip_edge.evaluation.standings import RankedSet, ScoredModel, standings_of
from tinyclip_edge.evaluation.standings_table import ranges
from tinyclip_edge.report.standings import write_standings
from tinyclip_edge.runtime.protocol import EmbedderSpec

SPEC = EmbedderSpec(8, 4, 1_000_000, 500, 2_000_000, "torch", "fp32")


def ranked(hits, *, resamples=2000, seed=0):
    """Standings of models by name, whose hits on each set are rows of 0 and 1."""
    measured = [
        ScoredModel(
            name, name, SPEC, (),
            tuple(PictureHits(np.array([row], float), np.ones((1, len(row)))) for row in rows),
        )
        for name, rows in hits.items()
    ]  # fmt: skip
    first = next(iter(hits.values()))
    sets = [RankedSet(f"set{i}", "zero-shot", len(row), len(row)) for i, row in enumerate(first)]
    return standings_of(measured, sets, resampling=Resampling(resamples, seed))


def of(share, count):
    """Hits of which a share is right."""
    return [int(i < round(share * count)) for i in range(count)]


def test_the_error_of_a_share_is_the_one_of_the_binomial():
    (model,) = ranked({"a": [of(0.3, 400)]}, resamples=8000).models
    (score,) = model.scores
    expected = math.sqrt(0.3 * 0.7 / 400)
    assert score.value == pytest.approx(0.3)
    assert score.stderr == pytest.approx(expected, rel=0.03)
    assert score.low == pytest.approx(0.3 - 1.96 * expected, abs=0.003)
    assert score.high == pytest.approx(0.3 + 1.96 * expected, abs=0.003)
    assert (model.place, model.first, model.last, model.shares) == (1, 1, 1, (1.0,))


def test_differences_are_paired():
    # b misses 20 of 400 that a hits; all else is equal: the difference has the error of 20 misses.
    a, b = of(0.6, 400), of(0.55, 400)
    standings = ranked({"b": [b], "a": [a]}, resamples=8000)
    (difference,) = standings.differences
    assert (difference.better, difference.worse, difference.certain) == ("a", "b", True)
    assert difference.share == pytest.approx(1.0, abs=1e-3)
    (score,) = difference.scores
    assert score.value == pytest.approx(0.05)
    assert score.stderr == pytest.approx(math.sqrt(0.05 * 0.95 / 400), rel=0.04)
    # Unpaired it would be three times as large, and not certain.
    assert 1.96 * math.sqrt(0.6 * 0.4 / 400 + 0.55 * 0.45 / 400) > 0.05


def test_all_captions_of_a_picture_are_drawn_together():
    # Pictures with five captions that are all hit or all missed: as many as pictures count.
    picture = np.array([1.0] * 50 + [0.0] * 50)
    hits = PictureHits(np.stack([5 * picture]), np.full((1, 100), 5.0))
    standings = standings_of(
        [ScoredModel("a", "a", SPEC, (), (hits,))],
        [RankedSet("s", "retrieval", 100, 500)],
        resampling=Resampling(8000),
    )
    assert standings.models[0].scores[0].stderr == pytest.approx(0.05, rel=0.03)


def test_equal_models_share_a_place_and_nothing_is_certain_of_them():
    standings = ranked({"a": [of(0.5, 40)], "b": [of(0.5, 40)], "c": [of(0.9, 40)]})
    assert [(m.name, m.place) for m in standings.models] == [("c", 1), ("a", 2), ("b", 2)]
    assert standings.best_orders == 2
    by_pair = {(d.better, d.worse): d for d in standings.differences}
    assert by_pair["a", "b"].share == 0.5 and not by_pair["a", "b"].certain
    assert by_pair["c", "a"].certain
    assert [(m.first, m.last) for m in standings.models[1:]] == [(2, 3)] * 2


def test_the_order_of_sets_that_disagree():
    # Ranks by set: a 1 1 3, b 2 2 1, c 3 3 2. Kemeny and Borda: a, b, c (5, 5, 8 for the ranks).
    hits = {
        "c": [of(0.1, 1000), of(0.1, 1000), of(0.5, 1000)],
        "b": [of(0.5, 1000), of(0.5, 1000), of(0.9, 1000)],
        "a": [of(0.9, 1000), of(0.9, 1000), of(0.1, 1000)],
    }
    standings = ranked(hits, resamples=200)
    assert [(m.name, m.place) for m in standings.models] == [("a", 1), ("b", 2), ("c", 3)]
    assert [m.mean_rank for m in standings.models] == pytest.approx([5 / 3, 5 / 3, 8 / 3])
    assert standings.method == "kemeny" and all(d.certain for d in standings.differences)


def test_a_seed_fixes_all_and_many_models_are_ranked_by_their_mean_rank():
    hits = {f"m{i}": [of(0.1 * i, 50)] for i in range(1, 10)}
    standings = ranked(hits, resamples=100, seed=3)
    assert standings.method == "borda"
    assert [m.name for m in standings.models] == [f"m{i}" for i in range(9, 0, -1)]
    assert standings == ranked(hits, resamples=100, seed=3)
    assert standings != ranked(hits, resamples=100, seed=4)
    assert len(standings.tables()) == 1  # no matrix of pairs


def test_ranges_of_numbers():
    assert ranges([]) == "–"
    assert ranges([1, 3, 4, 5, 8, 9]) == "1, 3-5, 8-9"


class Blind(ColourEmbedder):
    def encode_image(self, images):
        return super().encode_text(["grey"] * len(images))


class Broken(ColourEmbedder):
    def encode_image(self, images):
        return np.full_like(super().encode_image(images), np.nan)


@pytest.fixture
def opened(kit, monkeypatch):
    """The models that were opened; their names are those of embedders."""
    kinds = {"colours": ColourEmbedder, "blind": Blind, "broken": Broken}
    names = []

    def open_embedder(model, **_):
        names.append(model)
        return kinds[model]()

    def check_openable(model):
        if model not in kinds:
            raise ModelError(f"no model or folder '{model}'")

    monkeypatch.setattr(many_sets, "open_embedder", open_embedder)
    monkeypatch.setattr(many_sets, "check_openable", check_openable)
    return names


@pytest.fixture
def classes(tmp_path):
    """A folder of two classes, three pictures each."""
    for colour in ("red", "green"):
        (tmp_path / "classes" / colour).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "classes" / colour / f"{i}.png").write_bytes(square(colour))
    return tmp_path / "classes"


def test_models_on_sets_of_pairs_and_of_classes(opened, classes):
    standings = tinyclip_edge.compare(
        ["blind", "colours"], data=["starter:test_style", classes], resampling=Resampling(100)
    )
    assert opened == ["blind", "colours"]  # each once
    assert [(s.task, s.pictures) for s in standings.sets] == [("retrieval", 3), ("zero-shot", 6)]
    best, worst = standings.models
    assert (best.name, [s.value for s in best.scores]) == ("colours", [1.0, 1.0])
    assert [s.value for s in worst.scores] == pytest.approx([1 / 3, 1 / 2])
    content = json.loads(json.dumps(standings.as_dict()))
    assert content["models"][0]["metrics"][0]["retrieval"]["t2i"]["1"] == 1.0
    assert content["models"][0]["metrics"][1]["zero_shot"]["top1"] == 1.0
    assert "colours" in standings._repr_html_()
    assert standings.summary() == "Certain in 95% of the resamples: 1 of 1 orders of two models"


def test_a_broken_model_is_left_out_in_one_line(opened):
    with pytest.warns(TinyClipWarning, match=r"left out: broken: .*not finite") as caught:
        standings = rank_models(["broken", "colours"], ["starter:test_style"])
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert [m.name for m in standings.models] == ["colours"]
    assert standings.left_out[0].startswith("broken: ")
    with (
        pytest.warns(TinyClipWarning),
        pytest.raises(ModelError, match="no model could be measured; broken: "),
    ):
        rank_models(["broken"], ["starter:test_style"])


@pytest.mark.parametrize(
    ("models", "data", "error", "message"),
    [
        (["colours", "nowhere"], ["starter:test_style"], ModelError, "nowhere"),
        (["colours"], ["starter:vla"], DataError, "did you mean 'val'"),
        ([], ["starter:test_style"], DataError, "at least one model"),
        (["colours"], [], DataError, "at least one set"),
    ],
)
def test_mistakes_are_refused_before_a_model_is_opened(opened, models, data, error, message):
    with pytest.raises(error, match=message):
        rank_models(models, data)
    assert opened == []


def test_plots_of_names_that_are_formulas(tmp_path):
    standings = ranked({"$\\frac": [of(0.5, 9)], "<b>": [of(0.4, 9)]}, resamples=100)
    write_standings(standings.picture(), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width > 500
    write_standings(standings.picture(), tmp_path / "plot.html")
    page = Page((tmp_path / "plot.html").read_text())
    assert len(page.svgs) == 1
    assert page.tables[0][1:] == [["$\\frac", "1", "44.4 %"], ["<b>", "1", "44.4 %"]]
    with pytest.raises(ConfigError, match=r"\.png or \.html"):
        write_standings(standings.picture(), tmp_path / "plot.pdf")
