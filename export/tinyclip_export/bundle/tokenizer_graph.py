"""CLIP's tokenizer as a graph: regular expressions, then onnxruntime-extensions' CLIPTokenizer.

The operator splits words like GPT-2's tokenizer, so the text is changed first: blanks are added
between digits and removed before contractions, and the text is cleaned like in open_clip as far as
regular expressions can.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.tokenizer_files import END, START, read_tokenizer_table
from tinyclip_export.bundle.extension_operators import TEXT_DOMAIN
from tinyclip_export.layout import TEXT_IO, InputForm

if TYPE_CHECKING:
    from tinyclip_edge.runtime.tokenizer import ClipTokenizer

ModelProto: TypeAlias = Any  # onnx.ModelProto, which has no types
Nodes: TypeAlias = list[Any]  # of onnx.NodeProto

INPUT = "text"

# (RE2 expression, replacement), applied in this order.
CLEANING = (
    ("&amp;", "&"),
    ("&amp;", "&"),  # open_clip unescapes twice
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&quot;", '"'),
    ("&#39;", "'"),
    ("[\u02bc\u2018-\u201b]", "'"),
    ("[\u201c-\u201f]", '"'),
    # The operator knows Unicode's blanks but drops line breaks, which would join two words.
    (r"[\s\v\x{1C}-\x{1F}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}"
     r"\x{3000}]+", " "),
    # "<|endoftext|>" typed by a user is text, not a control token.
    (r"(?i)<\|(startoftext|endoftext)\|>", r"<| \1 |>"),
    (r"(\p{N})", r"\1 "),
    (r"(?i)([^ -/:-@\[-`{-~]) +'(s|t|re|ve|m|ll|d)", r"\1'\2"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StringTower:
    """The parts of a text tower that takes a string."""

    tokenizer: Path  # tokenizer.json
    start: int  # ids of the special tokens
    end: int
    context: int  # tokens
    form: InputForm


def tokenizer_graph(parts: StringTower) -> ModelProto:
    """Return the graph from ``text`` string ``[1]`` to ``input_ids`` int64 ``[1, L]``."""
    from onnx import TensorProto, helper

    nodes, values = tokenizer_parts(parts)
    graph = helper.make_graph(
        nodes,
        "tokenizer",
        [helper.make_tensor_value_info(INPUT, TensorProto.STRING, [1])],
        [
            helper.make_tensor_value_info(
                TEXT_IO.input_name, TensorProto.INT64, [1, ids_length(parts)]
            )
        ],
        values,
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(TEXT_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def expected_ids(tokenizer: ClipTokenizer, parts: StringTower, text: str) -> list[int]:
    """Return the ids that the bundle's text tower is run with."""
    ids = tokenizer.encode(text)
    return ids + [parts.form.pad_id] * (parts.context - len(ids)) if parts.form.padded else ids


def ids_length(parts: StringTower) -> int | str:
    """Return the second axis of the ids: a number, or a name where it is free."""
    return parts.context if parts.form.padded else "sequence"


def tokenizer_parts(parts: StringTower) -> tuple[Nodes, list[Any]]:
    """Return nodes and initializers from a string to ids; a truncated text has its end token."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, values, text = [], [], INPUT
    for number, rule in enumerate(CLEANING):
        names = [f"clean.{number}.{part}" for part in ("pattern", "replacement", "text")]
        for name, string in zip(names, rule, strict=False):
            values.append(helper.make_tensor(name, TensorProto.STRING, [1], [string.encode()]))
        nodes.append(
            helper.make_node("StringRegexReplace", [text, *names[:2]], names[2:],
                             domain=TEXT_DOMAIN, global_replace=1)
        )  # fmt: skip
        text = names[2]
    last = parts.context - 1
    integers = {
        "cut.zero": [0],
        "cut.last": [last],
        "cut.context": [parts.context],
        "cut.axis": [1],
    }
    values += [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in integers.items()]
    values.append(numpy_helper.from_array(np.array(parts.end, np.int64), "cut.end"))
    ids = "cut.unpadded" if parts.form.padded else TEXT_IO.input_name
    nodes += [
        helper.make_node("CLIPTokenizer", [text], ["cut.ids"], domain=TEXT_DOMAIN,
                         **_vocabulary(parts)),
        helper.make_node("Slice", ["cut.ids", "cut.zero", "cut.last", "cut.axis"], ["cut.head"]),
        # The last id of a full context is replaced by the end token; a shorter text has no tail.
        helper.make_node("Slice", ["cut.ids", "cut.last", "cut.context", "cut.axis"], ["cut.tail"]),
        helper.make_node("Shape", ["cut.tail"], ["cut.shape"]),
        helper.make_node("Expand", ["cut.end", "cut.shape"], ["cut.ends"]),
        helper.make_node("Concat", ["cut.head", "cut.ends"], [ids], axis=1),
    ]  # fmt: skip
    if parts.form.padded:
        extra, padding = _padding(parts)
        nodes, values = nodes + extra, values + padding
    return nodes, values


def _padding(parts: StringTower) -> tuple[Nodes, list[Any]]:
    """Return nodes and initializers that pad ids to the context length."""
    from onnx import helper, numpy_helper

    constants = {
        "pad.id": np.array(parts.form.pad_id, np.int64),
        "pad.before": np.array([0, 0, 0], np.int64),
        "pad.shape": np.array([1, parts.context], np.int64),
    }
    nodes = [
        helper.make_node("Shape", ["cut.unpadded"], ["pad.length"], start=1, end=2),
        helper.make_node("Sub", ["cut.context", "pad.length"], ["pad.missing"]),
        helper.make_node("Concat", ["pad.before", "pad.missing"], ["pad.widths"], axis=0),
        helper.make_node("Pad", ["cut.unpadded", "pad.widths", "pad.id"], ["pad.padded"]),
        # The tower needs a fixed shape, which the output of Pad does not have.
        helper.make_node("Reshape", ["pad.padded", "pad.shape"], [TEXT_IO.input_name]),
    ]
    return nodes, [numpy_helper.from_array(value, name) for name, value in constants.items()]


def _vocabulary(parts: StringTower) -> dict[str, str]:
    """Return the operator's attributes; it finds the special tokens by CLIP's own names."""
    content = read_tokenizer_table(parts.tokenizer)
    ids = {**content["model"]["vocab"]}
    for token in content.get("added_tokens") or ():
        ids.setdefault(token["content"], token["id"])
    names = {parts.start: START, parts.end: END}
    vocabulary = {names.get(index, piece): index for piece, index in ids.items()}
    merges = content["model"]["merges"]
    lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    if not lines:
        raise ModelError(f"{parts.tokenizer}: a tokenizer without merges cannot be part of a graph")
    text = json.dumps(vocabulary, separators=(",", ":"), ensure_ascii=False)
    return {"vocab": text, "merges": "\n".join(lines)}
