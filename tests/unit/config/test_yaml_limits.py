"""Hostile YAML: refused with its line before it takes memory, as a file and as an override."""

import pytest

from tinyclip_edge.config import load_config
from tinyclip_edge.config.preset import load_preset
from tinyclip_edge.config.yaml_text import YamlError, parse_yaml
from tinyclip_edge.errors import ConfigError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
MERGES = "a0: &a0 {x: 1, y: 2}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more than 100,000 values, aliases counted in full"),
        (MERGES, "more than 100,000 values, aliases counted in full"),
        ("a: " + "[" * 900, "line 1: nested more than 32 deep"),
        ("a: " + "[" * 5000, "nest"),  # libyaml from 0.2.6 on has a limit of its own
        ("a: " + "{a: " * 5000, "line 1: nested more than 32 deep"),
        ("- " * 5000 + "a", "line 1: nested more than 32 deep"),
        ("a: &a [1, *a]", "line 1: alias 'a' refers to a value that contains it"),
        ("a: *b", "undefined alias"),
        ("a: '" + "x" * (1 << 20) + "'", "more than 1,048,576 characters"),
        ('a: !!int ""', "line 1: '' cannot be read as int; quote it"),
        ("a: !!float x", "line 1: 'x' cannot be read as float; quote it"),
        ("\na: !!bool x", "line 2: 'x' cannot be read as bool; quote it"),
        ("a: !!timestamp x", "line 1: 'x' cannot be read as timestamp; quote it"),
        ("a: " + "9" * 6000, "cannot be read as int"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: \x07", "control characters are not allowed"),
        ("a: '\ud800'", "half of a surrogate pair"),
    ],
)
def test_a_hostile_text_is_refused_where_it_stands(tmp_path, text, message):
    with pytest.raises(YamlError, match=r"^[^\n]+$") as caught:
        parse_yaml(text)
    assert message in str(caught.value)
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for read in (load_config, load_preset):
        with pytest.raises(ConfigError) as refused:
            read(path)
        assert str(path) in str(refused.value)


def test_aliases_and_merges_of_ordinary_size_are_read():
    text = "a: &a {x: 1, y: 1e-4}\nb: {<<: *a, y: 2}\nc: [*a, *a]"
    first = {"x": 1, "y": 0.0001}
    assert parse_yaml(text) == {"a": first, "b": {"x": 1, "y": 2}, "c": [first, first]}


def test_a_number_of_thousands_of_digits_is_refused_by_its_kind():
    with pytest.raises(ConfigError, match="an integer with too many digits"):
        load_config("starter", ["seed=0x" + "f" * 6000])


def test_an_override_may_not_nest_without_end():
    with pytest.raises(ConfigError, match="nested more than 32 deep"):
        load_config("starter", [".".join("a" * 5000) + "=1"])
    with pytest.raises(ConfigError, match="nested more than 32 deep"):
        load_config("starter", ["optim.steps=" + "[" * 200])


def test_what_is_no_file_is_not_opened(tmp_path):
    path = tmp_path / ("x" * 300 + ".yaml")
    with pytest.raises(ConfigError):
        load_config(path)
    with pytest.raises(ConfigError):
        load_config("a\0b.yaml")
    with pytest.raises(ConfigError):
        load_preset("a\0b.yaml")
