"""Run configurations, export presets and overrides; records of devices."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from driver import Reader
from hostile import HOSTILE_BYTES, HOSTILE_JSON, HOSTILE_YAML
from mutations import changed_bytes, changed_json, changed_yaml

from tinyclip_edge.config.load import configs_path, load_config
from tinyclip_edge.config.preset import load_preset
from tinyclip_edge.evaluation.device_record import read_record

RECORDS = Path(__file__).parents[3] / "benchmarks/devices"

OVERRIDES = (
    "optim.steps=5",
    "optim.betas=[0.9, 0.99]",
    "data.val=null",
    "student.keep=null",
    "name=x",
    "student.keep=null",
    "teacher={model: a, also: [{model: b, weight: 0.5}]}",
)


def shipped(folder: str) -> Callable[[Path], list[bytes]]:
    return lambda _: [
        path.read_bytes() for path in sorted((configs_path() / folder).glob("*.yaml"))
    ]


def records(_: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(RECORDS.glob("*.json"))]


def read_file(load: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    def read(folder: Path, content: bytes) -> None:
        path = folder / "mine.yaml"
        path.write_bytes(content)
        load(path)

    return read


def changed_override(rng: random.Random, valid: bytes) -> bytes:
    key, _, value = valid.partition(b"=")
    if rng.random() < 0.5:
        return key + b"=" + changed_yaml(rng, value)
    return changed_bytes(rng, valid)


def read_override(_: Path, content: bytes) -> None:
    load_config("starter", [content.decode("utf-8", "surrogateescape")])


TEXTS = HOSTILE_YAML + HOSTILE_BYTES
KEYS = (b"seed=", b"data=", b"stages=", b"")
READERS = (
    Reader("run configuration", shipped("runs"), changed_yaml, read_file(load_config), TEXTS),
    Reader("export preset", shipped("export"), changed_yaml, read_file(load_preset), TEXTS),
    Reader("device record", records, changed_json, read_file(read_record), HOSTILE_JSON),
    Reader(
        "override",
        lambda _: [text.encode() for text in OVERRIDES],
        changed_override,
        read_override,
        [key + text.removeprefix(b"seed: ") for text in TEXTS for key in KEYS],
    ),
)
