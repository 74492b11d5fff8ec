"""Find, read, override and check run configurations; each error is one line with advice."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tinyclip_edge.config.data import DataConfig
from tinyclip_edge.config.importance import (
    CALIBRATION_KINDS,
    CalibrationConfig,
    ImportanceConfig,
)
from tinyclip_edge.config.renamed import current_key, rename_keys
from tinyclip_edge.config.schema import EnsembleMemberConfig, RunConfig
from tinyclip_edge.config.section import is_section
from tinyclip_edge.config.shrink import StageConfig
from tinyclip_edge.config.sources import SourceConfig, TextsConfig
from tinyclip_edge.config.yaml_text import YamlError, parse_yaml
from tinyclip_edge.errors import ConfigError, did_you_mean, shown
from tinyclip_edge.limits import YAML_BYTES, YAML_DEPTH
from tinyclip_edge.paths import is_file, read_bounded

_log = logging.getLogger(__name__)

YAML_SUFFIXES = (".yaml", ".yml")
LISTS = (("stages",), ("teacher", "ensemble"), ("data", "mix"))  # of sections


def configs_path() -> Path:
    """Return the folder of the shipped configurations, in a wheel or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_names() -> list[str]:
    """Return the names of the shipped run configurations."""
    return sorted(path.stem for path in (configs_path() / "runs").glob("*.yaml"))


def load_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run configuration by path or shipped name and apply ``key=value`` overrides.

    Raises ConfigError, which names the file or override, the key and the nearest valid one.
    """
    path = _find(name_or_path)
    return _configured(read_yaml(path), str(path), overrides)


def make_config(values: RunConfig | Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration of a mapping with the keys of a YAML file; see ``load_config``."""
    if isinstance(values, RunConfig):
        return _configured(values.model_dump(), "configuration", overrides) if overrides else values
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"configuration: expected a mapping, a name or a path, not {_kind(values)}"
        )
    return _configured(deepcopy(dict(values)), "configuration", overrides)


def _configured(raw: dict[str, Any], origin: str, overrides: Sequence[str]) -> RunConfig:
    rename_keys(raw, origin)
    sources: dict[str, str] = {}
    for text in overrides:
        key, value = _split(text)
        key = current_key(key, f"override {text!r}")
        _set_nested(raw, key, value, text)
        rename_keys(raw, f"override {text!r}")  # of a whole section
        sources[key] = f"override {text!r}"
    _log.info("configuration %s, overrides: %s", origin, " ".join(overrides) or "none")
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_explain(error, origin, sources)) from None


def dump_config(config: RunConfig) -> str:
    """Return the configuration as YAML, including all defaults."""
    text: str = yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )
    return text


def flatten(config: RunConfig) -> dict[str, Any]:
    """Return ``{"optim.lr": …}`` for every value of the schema."""
    flat: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json").items():
        if isinstance(getattr(config, name), BaseModel):
            flat.update({f"{name}.{key}": item for key, item in value.items()})
        else:
            flat[name] = value
    return flat


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if is_file(path):
        return path
    if path.suffix in YAML_SUFFIXES or len(path.parts) != 1:
        raise ConfigError(f"configuration {path}: no such file")
    shipped = configs_path() / "runs" / f"{path.name}.yaml"
    if not is_file(shipped):
        hint = did_you_mean(path.name, config_names())
        raise ConfigError(f"configuration {str(path)!r}: no such file and no shipped name{hint}")
    return shipped


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a file; raise ConfigError with the line of an error."""
    content = read_bounded(path, ConfigError, limit=YAML_BYTES)
    try:
        raw = parse_yaml(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read as text ({error})") from None
    except YamlError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected sections such as 'teacher:', found {_kind(raw)}")
    return raw


def _split(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {text!r}: expected key=value, such as optim.steps=500")
    try:
        return key.strip(), parse_yaml(value)
    except YamlError as error:
        raise ConfigError(f"override {text!r}: the value is not YAML ({error})") from None


def _set_nested(raw: dict[str, Any], key: str, value: object, text: str) -> None:
    *parents, last = key.split(".")
    if len(parents) > YAML_DEPTH:
        raise ConfigError(f"override {text!r}: sections are nested more than {YAML_DEPTH} deep")
    at = raw
    for name in parents:
        inner = at.get(name)
        if inner is None:
            inner = at[name] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"override {text!r}: '{name}' is a value, not a section")
        at = inner
    at[last] = value


def _explain(error: ValidationError, path: str, sources: Mapping[str, str]) -> str:
    """Explain the first invalid key in one line; several branches of a union count as one key."""
    faults = error.errors(include_url=False)
    if not faults[0]["loc"]:  # sections that contradict each other
        return f"{', '.join(sources.values()) or path}: {_problem(faults[0])}"
    parts = _key(faults[0]["loc"])
    key = ".".join(parts)
    unindexed = re.sub(r"\[\d+\]", "", key)  # an override sets all stages at once
    touching = [
        k for k in sources if f"{unindexed}.".startswith(f"{k}.") or k.startswith(f"{unindexed}.")
    ]
    source = sources[touching[-1]] if touching else path
    same = [fault for fault in faults if _key(fault["loc"]) == parts]
    kind, value = same[0]["type"], same[0]["input"]
    if kind == "extra_forbidden":
        return f"{source}: unknown key '{key}'{_nearest(parts)}"
    if kind == "missing" and str(same[0]["loc"][-1]) == parts[-1]:
        return f"{source}: key '{key}' is missing"
    if kind == "value_error":
        return f"{source}: {key}: {_problem(same[0])}"
    expected = " or ".join(dict.fromkeys(_expected(fault) for fault in same))
    return f"{source}: {key} is {shown(value)} ({_kind(value)}); expected {expected}"


def _expected(fault: ErrorDetails) -> str:
    if fault["type"] == "missing":
        return "another item"
    if fault["type"].startswith("model_"):
        return "a section"
    if fault["type"] == "string_pattern_mismatch":
        return f"text that matches {fault['ctx']['pattern']}"
    return fault["msg"].removeprefix("Input should be ").removeprefix("Value should have ")


def _problem(fault: ErrorDetails) -> str:
    return str(fault.get("ctx", {}).get("error", fault["msg"]))


def _key(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Remove the names of union branches from a location of pydantic."""
    parts = tuple(str(part) for part in loc)
    for path in LISTS:
        at = len(path)
        if parts[:at] == path and len(loc) > at and isinstance(number := loc[at], int):
            return (*path[:-1], f"{path[-1]}[{number + 1}]", *parts[at + 1 : at + 2])
    if parts[0] == "data" and parts[1:3] in (("texts", "labels"), ("val_texts", "labels")):
        return (*parts[:2], *parts[3:4])  # the section, which is one of two kinds
    if parts[:2] == ("inherit", "importance"):
        parts = tuple(part for part in parts if part not in CALIBRATION_KINDS)
        inner = parts[5:6] if parts[3:5] == ("texts", "labels") else ()
        return (*parts[:4], *inner)
    if parts[0] == "data" and parts[1:2] and parts[1] in _sections(DataConfig):
        return parts[:3]
    return parts[: 2 if parts[0] in _sections(RunConfig) else 1]


def _sections(schema: type[BaseModel]) -> dict[str, type[BaseModel]]:
    return {
        name: field.annotation
        for name, field in schema.model_fields.items()
        if is_section(field.annotation)
    }


def _nearest(parts: tuple[str, ...]) -> str:
    """Suggest a key of the same section, or the section that contains this key."""
    sections, word = _sections(RunConfig), parts[-1]
    elsewhere = [
        f"{name}.{word}" for name, section in sections.items() if word in section.model_fields
    ]
    if elsewhere:
        return f"; did you mean '{elsewhere[0]}'?"
    if parts[0].startswith("stages["):
        return did_you_mean(word, StageConfig.model_fields)
    if parts[:2] == ("inherit", "importance"):
        sections_of = (ImportanceConfig, CalibrationConfig, TextsConfig)
        return did_you_mean(word, sections_of[len(parts) - 3].model_fields)
    if len(parts) == 3:
        kinds: dict[str, type[BaseModel]] = {
            **_sections(DataConfig),
            "texts": TextsConfig,
            "val_texts": TextsConfig,
        }
        in_list = SourceConfig if parts[1].startswith("mix[") else EnsembleMemberConfig
        inner = kinds.get(parts[1], in_list)
        return did_you_mean(word, inner.model_fields)
    if len(parts) == 1:
        return did_you_mean(word, RunConfig.model_fields)
    fields = sections[parts[0]].model_fields
    return did_you_mean(word, fields).replace("mean '", f"mean '{parts[0]}.")


KINDS = {
    dict: "a section",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "nothing",
}


def _kind(value: object) -> str:
    return KINDS.get(type(value), type(value).__name__)
