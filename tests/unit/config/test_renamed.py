"""Old names of keys and values are read, with a warning that says the new one."""

import pytest

from tinyclip_edge.config import load_config
from tinyclip_edge.config.preset import load_preset
from tinyclip_edge.errors import ConfigError, TinyClipWarning

OLD = """
teacher: {model: t, also: [{model: u, weight: 2.0}]}
student: {model: s}
data: {train: x.tar, lanes: 4}
"""
NEW = OLD.replace("also", "ensemble").replace("lanes", "stream_groups")


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write


def test_old_keys_of_a_file(written):
    with pytest.warns(TinyClipWarning) as warned:
        config = load_config(written(OLD))
    assert config == load_config(written(NEW))
    messages = [str(warning.message).partition("run.yaml: ")[2] for warning in warned]
    assert messages == [
        "'data.lanes' is now called 'data.stream_groups'; the old name is accepted until 0.3",
        "'teacher.also' is now called 'teacher.ensemble'; the old name is accepted until 0.3",
    ]


@pytest.mark.parametrize("override", ["data.lanes=8", "data={train: x.tar, lanes: 8}"])
def test_old_keys_of_an_override(written, override):
    with pytest.warns(TinyClipWarning, match=r"override 'data.*now called 'data\.stream_groups'"):
        assert load_config(written(NEW), [override]).data.stream_groups == 8


def test_both_names_at_once_are_refused(written):
    both = NEW.replace("stream_groups: 4", "stream_groups: 4, lanes: 4")
    with pytest.raises(ConfigError, match=r"run\.yaml: data\.lanes is now called data"):
        load_config(written(both))


def test_an_old_value_of_a_preset(written):
    with pytest.warns(TinyClipWarning, match="now called 'int8.weight_range: overflow_safe'"):
        preset = load_preset(written("int8: {weight_range: pairs}"))
    assert preset.int8.weight_range == "overflow_safe"
