"""Bound how much longer the rules of an untrusted ``tokenizer.json`` may make a text."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

from tinyclip_edge.errors import ModelError
from tinyclip_edge.limits import CHARSMAP_BYTES, TEXT_GROWTH

# Most characters that a step may turn one into; steps that are not listed turn it into one.
_STEPS = {
    "NFC": 3,
    "NFD": 4,
    "NFKC": 18,
    "NFKD": 18,
    "Lowercase": 2,
    "BertNormalizer": 4,  # decomposes, and puts blanks around Chinese characters
    "ByteLevel": 4,  # the bytes of UTF-8
    "Metaspace": 2,
}


def check_growth(tokenizer: Tokenizer, source: str) -> None:
    """Raise ModelError when one character may become more than ``TEXT_GROWTH``.

    Normalizers and pre-tokenizers run one after another, so their factors multiply.
    """
    for part in (tokenizer.normalizer, tokenizer.pre_tokenizer):
        growth = 1
        for step in [] if part is None else _steps(json.loads(part.__getstate__())):
            growth *= _factor(step)
            if growth > TEXT_GROWTH:
                raise ModelError(
                    f"{source}: its rules, up to {step['type']}, may turn one character into "
                    f"{growth:,}; at most {TEXT_GROWTH:,} are allowed"
                )


def _steps(rule: dict[str, Any]) -> Iterator[dict[str, Any]]:
    inner = rule.get("normalizers", rule.get("pretokenizers"))
    if inner is None:
        yield rule
    else:
        for step in inner:
            yield from _steps(step)


def _factor(step: dict[str, Any]) -> int:
    if step["type"] == "Replace":
        literal = step["pattern"].get("String")
        # A regular expression may match between all characters.
        return max(1, len(step["content"])) if literal else 1 + len(step["content"])
    if step["type"] == "Prepend":
        return 1 + len(step["prepend"])
    if step["type"] == "Precompiled":
        return _longest_entry(base64.b64decode(step["precompiled_charsmap"]))
    return _STEPS.get(step["type"], 1)


def _longest_entry(table: bytes) -> int:
    """Return the length of the longest replacement in a sentencepiece table.

    A table has the length of a search tree, the tree, then replacements that end in a null byte.
    """
    if len(table) > CHARSMAP_BYTES:
        raise ValueError(f"its table of characters has more than {CHARSMAP_BYTES:,} bytes")
    (tree,) = struct.unpack_from("<I", table)
    return max((len(entry.decode(errors="replace")) for entry in table[4 + tree :].split(b"\0")),
               default=1)  # fmt: skip
