"""The search graph of an index file: built on request, and brought up to date afterwards."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinyclip_edge.aside import locked_file
from tinyclip_edge.errors import DataError
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.graph import REBUILT_BELOW, GraphFacts
from tinyclip_edge.runtime.index import EXACT_BELOW, ImageIndex
from tinyclip_edge.runtime.index_file import index_path
from tinyclip_edge.runtime.protocol import Progress
from tinyclip_edge.runtime.tokenizer_json import parse_tokenizer

TEXTS = 200  # that recall is measured with
SEARCHED_EXACTLY = 0.05  # largest share of pictures without a node that leaves a graph as it is
_SHORTEST = 4  # letters of a word, at least


def update_graph(
    clip: EdgeCLIP, path: str | Path, approximate: bool | None, *, progress: Progress = False
) -> GraphFacts | None:
    """Add a graph to an index file (True), remove it (False), or bring one up to date (None).

    Recall is measured with texts of words from the model's vocabulary. Return the graph's facts,
    None without a graph. Raise DataError for an index of fewer than ``EXACT_BELOW`` pictures,
    MissingExtraError without usearch, TinyClipError while another process writes the file.
    """
    path = index_path(path)
    with locked_file(path):
        index = ImageIndex.load(path, mmap=os.name != "nt")  # Windows cannot replace one
        graph = index.graph
        if approximate and len(index) < EXACT_BELOW:
            raise DataError(
                f"{path} is written, but without a graph: exact search of {len(index):,} pictures "
                f"takes milliseconds; a graph is for {EXACT_BELOW:,} or more"
            )
        if approximate is False:
            if graph is not None:
                replace(index, graph=None).save(path)
            return None
        if graph is None and not approximate:
            return None
        if graph is not None and _is_current(index):
            return graph.facts
        queries = clip.encode_text(vocabulary_texts(clip, TEXTS))
        index = index.approximate(queries, minimum=0, progress=progress)
        index.save(path)
    return None if index.graph is None else index.graph.facts


def _is_current(index: ImageIndex) -> bool:
    graph = index.graph
    if graph is None or graph.share < REBUILT_BELOW:
        return False
    return len(index) - len(graph.labels) <= SEARCHED_EXACTLY * len(index)


def vocabulary_texts(clip: EdgeCLIP, count: int) -> list[str]:
    """Return at most ``count`` texts, each about a word of the model's vocabulary."""
    vocabulary = parse_tokenizer(clip.folder / "tokenizer.json").get_vocab()
    pairs = [(token, token.removesuffix("</w>").lstrip("▁Ġ")) for token in vocabulary]
    words = sorted(
        word
        for token, word in pairs
        if token != word and word.isalpha() and word.islower() and len(word) >= _SHORTEST
    )
    chosen = np.unique(np.linspace(0, len(words) - 1, count).astype(np.intp)) if words else ()
    return [f"a photo of a {words[number]}" for number in chosen] or ["a photo"]
