"""Every key of a run configuration and of an export preset: description, type and default."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tinyclip_edge.config.preset import ExportPreset
from tinyclip_edge.config.schema import RunConfig
from tinyclip_edge.config.section import is_section
from tinyclip_edge.errors import ConfigError, did_you_mean

REQUIRED = "required"
SCHEMAS: dict[str, type[BaseModel]] = {"run": RunConfig, "export": ExportPreset}


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """One key in the dotted form of overrides; ``[]`` stands for each entry of a list."""

    key: str
    type: str
    default: str
    description: str

    def as_dict(self) -> dict[str, str]:
        """Return plain values for JSON."""
        return {
            "key": self.key,
            "type": self.type,
            "default": self.default,
            "description": self.description,
        }


def config_keys(schema: str = "run") -> list[ConfigKey]:
    """Return all keys of a schema, in the order of the file."""
    return schema_keys(SCHEMAS[schema])


def schema_keys(schema: type[BaseModel]) -> list[ConfigKey]:
    """Return all keys of a pydantic model."""
    return list(_keys(schema, ""))


def matching_keys(name: str | None, schema: str = "run") -> list[ConfigKey]:
    """Return the key of this name, or those in a section. ConfigError if there is neither."""
    keys = config_keys(schema)
    if name is None:
        return keys
    matches = [
        entry
        for entry in keys
        if entry.key == name or entry.key.startswith((f"{name}.", f"{name}["))
    ]
    if not matches:
        sections = {entry.key.partition(".")[0] for entry in keys}
        hint = did_you_mean(name, {entry.key for entry in keys} | sections)
        raise ConfigError(f"no configuration key '{name}'{hint}")
    return matches


def _keys(model: type[BaseModel], prefix: str) -> Iterator[ConfigKey]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        sections = list(_sections(field.annotation))
        nested_list = get_origin(_without_none(field.annotation)) is list
        optional = type(None) in get_args(field.annotation)
        if len(sections) != 1 or nested_list or optional:
            yield ConfigKey(key, _type(field.annotation), _default(field), field.description or "")
        for section in sections:
            yield from _keys(section, f"{key}[]." if nested_list else f"{key}.")


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401 - a type
    if is_section(annotation):
        yield annotation
        return
    for part in get_args(annotation):
        yield from _sections(part)


def _without_none(annotation: Any) -> Any:  # noqa: ANN401 - a type
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return parts[0] if len(parts) == 1 else annotation
    return annotation


def _type(annotation: Any) -> str:  # noqa: ANN401 - a type
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(args[0])
    if origin is Literal:
        return " | ".join(str(value) for value in args)
    if origin in (Union, types.UnionType):
        return " | ".join(_type(part) for part in args)
    if origin in (list, tuple, dict):
        inner = ", ".join(_type(part) for part in args if part is not Ellipsis)
        return f"{origin.__name__}[{inner}]"
    if is_section(annotation):
        return "section"
    special_names = {type(None): "null", Any: "any"}
    return str(special_names.get(annotation) or getattr(annotation, "__name__", annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return REQUIRED
    if isinstance(value, BaseModel):
        return "see below"
    return json.dumps(value, default=str)
