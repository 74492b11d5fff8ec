"""Ids of our tokenizer equal open_clip's, on texts that are hard to split."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from tinyclip_edge.runtime.tokenizer import ClipTokenizer

HARD_TEXTS = [
    "a photo of a cat",
    "",
    "  two  blanks\tand\nlines ",
    "fish &amp;amp; chips &lt;b&gt;",
    "don’t “stop” ‘now’",
    "route 66, 3.14",
    "STRASSE École İstanbul",
    "日本語 テスト",
    "👩‍👩‍👧 🇩🇪 ☕",
    "e\u0301clair",
    "it's we've I'LL they'd",
    "½ ² Ⅷ",
    "naïve — dash… #tag @you",
    "lone \ud800 surrogate",
    "word " * 100,
    "x" * 500,
]


@pytest.fixture(scope="module")
def open_clip_twins(tmp_path_factory):
    """open_clip's tokenizer, and ours on the same merges."""
    from open_clip.tokenizer import SimpleTokenizer, default_bpe
    from transformers import CLIPTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    theirs = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(piece, piece): i for piece, i in theirs.encoder.items()}
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(
        folder
    )
    return theirs, ClipTokenizer.from_file(folder / "tokenizer.json", 77)


@pytest.mark.parametrize("text", HARD_TEXTS, ids=lambda text: ascii(text)[:20])
def test_ids_equal_open_clip(open_clip_twins, text):
    theirs, ours = open_clip_twins
    np.testing.assert_array_equal(ours([text])[0], theirs([text])[0].numpy())
