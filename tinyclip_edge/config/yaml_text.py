"""Read YAML of bounded size, depth and number of values, for all configurations."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import yaml

from tinyclip_edge.errors import one_line
from tinyclip_edge.limits import YAML_BYTES, YAML_DEPTH, YAML_NODES

# libyaml if PyYAML has it: the same loader, some thirty times as fast.
if TYPE_CHECKING:
    _Base = yaml.SafeLoader
else:
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


MERGE = "tag:yaml.org,2002:merge"  # <<, which PyYAML replaces with the keys of another section

MOST_BITS = 1024  # of an integer; 2**1024 is also beyond a float, and no setting is that large


class YamlError(ValueError):
    """A text is not YAML, or not of a kind read here; the message says where and why."""


class _Loader(_Base):
    """SafeLoader that reads 1e-4 as a number and refuses duplicate keys."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401
        try:
            value = super().construct_object(node, deep=deep)
        # PyYAML converts !!int "", !!bool x and 2026-13-45 without a check.
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
            kind, value = node.tag.rpartition(":")[2], node.value
            text = one_line(repr(value)) if isinstance(value, str) else "this value"
            raise self._fault(f"{text} cannot be read as {kind}; quote it", node) from None
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise self._fault("an integer with too many digits; quote it", node)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if not isinstance(node, yaml.MappingNode):  # !!map "text"
            raise self._fault("a value is marked as a section", node)
        keys = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):  # {{ name }}: a template that was not filled in
                kind = "a list" if isinstance(key, list) else "a section"
                raise self._fault(f"{kind} cannot be a key; quote text with braces", key_node)
            if key in keys:
                raise self._fault(f"key {one_line(repr(key))} appears twice", key_node)
            keys.add(key)
        built: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return built

    @staticmethod
    def _fault(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
        return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


# YAML 1.1, which PyYAML follows, wants "1.0e-4"; people write 1e-4.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:  # noqa: ANN401 - whatever the text holds
    """Return the value of a text; YamlError if it is not YAML or exceeds the limits."""
    if len(text) > YAML_BYTES:
        raise YamlError(f"more than {YAML_BYTES:,} characters")
    try:
        _check_size(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise YamlError(f"{line}{problem}") from None
    except UnicodeEncodeError:
        raise YamlError("half of a surrogate pair, which is not a character") from None


def _check_size(text: str) -> None:
    """Count values and depth before anything is built: aliases multiply, nesting recurses."""
    anchors: dict[str | None, int] = {}
    open_collections: list[tuple[str | None, int]] = []  # anchor, values before it
    values = 0
    for event in yaml.parse(text, Loader=_Base):
        assert event.start_mark is not None  # libyaml and PyYAML mark every event
        line = f"line {event.start_mark.line + 1}: "
        if isinstance(event, yaml.AliasEvent):
            if any(event.anchor == anchor for anchor, _ in open_collections):
                raise YamlError(f"{line}alias '{event.anchor}' refers to a value that contains it")
            values += anchors.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            if event.anchor:
                anchors[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_collections.append((event.anchor, values))
            values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_collections.pop()
            if anchor:
                anchors[anchor] = values - before
        if len(open_collections) > YAML_DEPTH:
            raise YamlError(f"{line}nested more than {YAML_DEPTH} deep")
        if values > YAML_NODES:
            raise YamlError(f"{line}more than {YAML_NODES:,} values, aliases counted in full")
