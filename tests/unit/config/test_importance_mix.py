"""``inherit.importance``: general knowledge and a domain, validated strictly."""

from __future__ import annotations

import pytest

from tinyclip_edge.api.run_checks import check_pairs
from tinyclip_edge.config import make_config
from tinyclip_edge.errors import ConfigError, DataError

BASE = {"teacher": {"model": "t"}, "student": {"model": "starter-15"}, "data": {"train": "a.csv"}}
DOMAIN = {"weight": 0.5, "images": "cats", "texts": "names.txt"}


def mixed(importance, plan="importance", **inherit):
    return make_config({**BASE, "inherit": {"plan": plan, "importance": importance, **inherit}})


def test_a_part_is_a_weight_or_a_source():
    parts = mixed({"general": 1, "domain": DOMAIN}).inherit.importance.parts
    assert parts["general"] == 1.0 and isinstance(parts["general"], float)
    assert (parts["domain"].images, parts["domain"].weight) == ("cats", 0.5)
    assert list(mixed({"domain": DOMAIN}, plan="mapped").inherit.importance.parts) == ["domain"]
    overrides = ["inherit.importance.domain.images=x", "inherit.importance.domain.texts=y"]
    config = make_config({**BASE, "inherit": {"plan": "importance"}}, overrides)
    assert config.inherit.importance.domain.weight == 1


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        ({}, "set general, domain or both"),
        ({"general": 0.5, "domain": 0.5}, "are both measured on the run's own data"),
        ({"genral": 1}, "key 'inherit.importance.genral'; did you mean 'general'"),
        ({"domain": {**DOMAIN, "weigth": 1}}, "importance.domain.weigth'; did you mean 'weight'"),
        ({"domain": {**DOMAIN, "weight": 0}}, "importance.domain.weight is 0 .*greater than 0"),
        ({"general": -1}, "inherit.importance.general is -1 .*greater than 0"),
        ({"general": "much"}, "inherit.importance.general is 'much'"),
        ({"domain": {"images": "cats"}}, "add texts to the images"),
        ({"domain": {"pairs": "p", "texts": "t"}}, "inherit.importance.domain: texts are drawn"),
        (
            {"domain": {"images": "x", "texts": {"labels": "l", "template": []}}},
            "key 'inherit.importance.domain.texts.template'; did you mean 'templates'",
        ),
    ],
)
def test_what_is_wrong_is_one_line(importance, message):
    with pytest.raises(ConfigError, match=message) as error:
        mixed(importance)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("inherit", [{"plan": "evenly"}, {"plan": "importance", "method": "masks"}])
def test_it_needs_the_plan_that_measures(inherit):
    with pytest.raises(ConfigError, match=r"goes with inherit\.plan=importance"):
        mixed({"general": 1.0}, **inherit)


def test_what_is_not_there_is_said_before_torch_is_imported(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "a.csv").write_text("image,caption\n")
    domain = {"images": str(tmp_path / "none"), "texts": str(tmp_path / "names.txt")}
    config = mixed({"domain": domain})
    with pytest.raises(DataError, match=r"inherit\.importance\.domain\.images: "):
        check_pairs(config, pairs=())
    config = mixed({"domain": {**domain, "images": str(tmp_path / "cats")}})
    with pytest.raises(DataError, match=r"inherit\.importance\.domain\.texts: .*names.txt"):
        check_pairs(config, pairs=())
