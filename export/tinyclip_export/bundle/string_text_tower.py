"""Text towers that take a string: CLIP's tokenizer from onnxruntime-extensions in the graph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyclip_edge.errors import ConfigError
from tinyclip_edge.models.tokenizer_files import WORDS, read_tokenizer_table
from tinyclip_edge.precisions import PRECISIONS, replay_cosine
from tinyclip_edge.runtime.protocol import Features
from tinyclip_export.bundle.extension_operators import (
    TEXT_DOMAIN,
    Session,
    open_with_extension,
    require_extension,
)
from tinyclip_export.bundle.tokenizer_graph import (
    INPUT,
    StringTower,
    expected_ids,
    ids_length,
    tokenizer_graph,
    tokenizer_parts,
)
from tinyclip_export.layout import TEXT_IO
from tinyclip_export.verification.embeddings import TowerFiles
from tinyclip_export.verification.failures import ValuesError
from tinyclip_export.verification.golden import TEXTS

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip
    from tinyclip_edge.runtime.tokenizer import ClipTokenizer

STEM = "string_text_model"  # a prefix, since a suffix of TEXT_IO.stem names a precision

# Texts that must give the ids of the bundle's own tokenizer.
EXACT = (
    *TEXTS,
    "",
    "  two  blanks\tand\nlines ",
    "fish &amp; chips &lt;b&gt;",
    "don’t “stop” ‘now’",
    "route 66, 3.14 in 2024; x2 5'2",
    "it's we've I'LL they'd, the '90s, rock 'n' roll",
    "Ünï École ½ 日本語 👩‍👩‍👧 🇩🇪",
    "a<|endoftext|>b",
    "word " * 300,
    "x" * 900,
)
# Texts whose cleaning needs ftfy or Python's own rules for letters, which the graph lacks.
INEXACT = ("e\u0301clair", "ｗｉｄｅ", "ﬁne", "ΟΔΟΣ", "&eacute;", "schÃ¶n", "no! 't was")


def string_tower_path(precision: str) -> str:
    """Return the file's path inside a bundle."""
    return f"onnx/{STEM}{PRECISIONS[precision].suffix}.onnx"


def check_tokenizer(clip: LoadedClip, static_batch: int | None) -> None:
    """Raise ConfigError for a model whose tokenizer cannot be part of the graph.

    Raises MissingExtraError without onnxruntime-extensions.
    """
    require_extension()
    if static_batch not in (None, 1):
        raise ConfigError(
            f"--embed-tokenizer encodes one text at a time, not {static_batch}; use --static-batch "
            "1, or omit it"
        )
    inner = getattr(clip.tokenizer, "tokenizer", None)
    if hasattr(clip.tokenizer, "strip_sep_token") and inner is not None:
        backend = getattr(getattr(inner, "backend_tokenizer", None), "model", inner)
        kind = f"{type(inner).__name__}, {type(backend).__name__}"
    elif clip.tokenizer_file is not None and not _is_clips(clip.tokenizer_file):
        kind = f"{clip.tokenizer_file}: other words than CLIP's"
    else:
        return
    raise ConfigError(
        f"--embed-tokenizer: the tokenizer of {clip.name} is not CLIP's ({kind}), and "
        "onnxruntime-extensions has no operator that gives the same ids; omit the option"
    )


def write_string_towers(
    folder: Path,
    files: Sequence[TowerFiles],
    parts: StringTower,
    captions: Sequence[str],
    expected: Mapping[str, Features],
) -> dict[str, Any]:
    """Write one file per precision, ``text`` string ``[1]`` to ``text_embeds [1, D]``.

    The second output is ``input_ids [1, L]``. `expected` has, by precision, the embeddings
    ``[N, D]`` of TEXTS from the bundle's text tower. Returns the manifest's figures, among them how
    many `captions` get other ids than from the bundle's tokenizer. Raises ValuesError if ids of
    EXACT, or embeddings, differ from the bundle's.
    """
    from tinyclip_edge.runtime.tokenizer import ClipTokenizer

    tokenizer = ClipTokenizer.from_file(parts.tokenizer, parts.context)
    session = open_with_extension(tokenizer_graph(parts).SerializeToString())
    wrong = _other_ids(session, tokenizer, parts, EXACT)
    if wrong:
        raise ValuesError(
            f"--embed-tokenizer: {wrong[0][:40]!r} gets other ids from the graph than "
            f"from {parts.tokenizer.name}, like {len(wrong):,} of {len(EXACT):,} test texts"
        )
    figures: dict[str, Any] = {
        "input": "text string [1]",
        "outputs": {"text_embeds": "float32 [1, D]", "input_ids": "int64 [1, L]"},
        "needs": f"onnxruntime-extensions (operators of {TEXT_DOMAIN})",
        "files": {},
        "other_ids": _other_ids(session, tokenizer, parts, INEXACT),
        "captions": len(captions),
        "captions_with_other_ids": len(_other_ids(session, tokenizer, parts, captions)),
        "cosine_min": {},
    }
    for each in files:
        target = folder / string_tower_path(each.precision)
        target.write_bytes(_with_tokenizer(each.text, parts))
        cosine = _min_cosine(target, each, expected[each.precision])
        least = replay_cosine(each.precision)
        if not cosine >= least:
            raise ValuesError(
                f"{each.precision} text tower of strings: cosine {cosine:.5f} to the text tower "
                f"is below {least}"
            )
        figures["files"][each.precision] = string_tower_path(each.precision)
        figures["cosine_min"][each.precision] = round(cosine, 6)
    return figures


def _is_clips(path: Path) -> bool:
    content = read_tokenizer_table(path)
    model = content.get("model") or {}
    rules = json.dumps(content.get("pre_tokenizer"))
    return (
        model.get("type") == "BPE"
        and model.get("end_of_word_suffix") == "</w>"
        and json.dumps(WORDS)[1:-1] in rules
    )


def _with_tokenizer(path: Path, parts: StringTower) -> bytes:
    """Return the tokenizer followed by a text tower as one graph, serialized."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(str(path))
    graph = model.graph
    nodes, values = tokenizer_parts(parts)
    tower_nodes = list(graph.node)
    del graph.input[:], graph.node[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.STRING, [1]))
    graph.node.extend([*nodes, *tower_nodes])
    graph.initializer.extend(values)
    graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph.output.append(
        helper.make_tensor_value_info(TEXT_IO.input_name, TensorProto.INT64, [1, ids_length(parts)])
    )
    model.opset_import.append(helper.make_opsetid(TEXT_DOMAIN, 1))
    content: bytes = model.SerializeToString()
    return content


def _other_ids(
    session: Session, tokenizer: ClipTokenizer, parts: StringTower, texts: Sequence[str]
) -> list[str]:
    """Return the texts for which the graph and the tokenizer give different ids."""
    other = []
    for text in texts:
        ids = session.run([TEXT_IO.input_name], {INPUT: np.array([text], object)})[0][0].tolist()
        if ids != expected_ids(tokenizer, parts, text):
            other.append(text)
    return other


def _min_cosine(path: Path, files: TowerFiles, expected: Features) -> float:
    strings = open_with_extension(path.read_bytes(), precise_int8=files.precise_int8)
    rows = [strings.run([TEXT_IO.output_name], {INPUT: np.array([t], object)})[0] for t in TEXTS]
    return float((np.concatenate(rows) * expected).sum(axis=1).min())
