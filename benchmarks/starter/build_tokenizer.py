"""Prune CLIP's BPE to the kit's words: ``python -m starter.build_tokenizer``.

Only merges that build used tokens are kept, in their order. The kit's names and common tags thus
have as many tokens as with the full vocabulary, and other words fall back to pieces.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tinyclip_edge.starter import SPLITS, kit_path, teacher_path
from tinyclip_edge.starter.kit import read_split

CONTEXT = 16  # tokens, start and end included
START, END = "<|startoftext|>", "<|endoftext|>"
# transformers needs a separate padding token; this one (a zero byte that ends a word) never occurs
# in text. open_clip is configured to replace it by its padding 0, with which tokenizers pads.
HF_PAD = "Ā</w>"
TAG_USES = 12  # pictures with a tag from which on its words are kept as whole tokens
BPE_FILE = "bpe_pruned.txt.gz"
EXTRA_TEXT = (
    "a photo of a an the picture image drawing icon pictogram symbol sign emoji of in on with and "
    "or for clipart illustration logo this is there some one two three many it style flat colour "
    "color black white red green blue yellow line art simple small large left right up down 's 're "
    "not no 0 1 2 3 4 5 6 7 8 9 . , : ; ! ? - ( ) & ' \" / # + a b c d e f g h i j k l m n o p q r "
    "s t u v w x y z"
)


def kit_words(kit: Path) -> set[str]:
    """Words that must stay whole tokens: all words of names, and frequent words of tags."""
    words, tags = set(EXTRA_TEXT.split()), Counter[str]()
    for split in SPLITS:
        for sample in read_split(kit, split):
            words.update(sample.concept.split())
            tags.update(" ".join(sample.about["keywords"]).split())
    return words | {word for word, uses in tags.items() if uses >= TAG_USES}


def prune(texts: set[str]) -> list[tuple[str, str]]:
    """Merges of CLIP's BPE that the texts use, including all that build each merged token."""
    from open_clip.tokenizer import SimpleTokenizer

    full = SimpleTokenizer()
    pair_by_token = {"".join(pair): pair for pair in full.bpe_ranks}
    merges: set[tuple[str, str]] = set()
    stack = [full.decoder[i] for text in texts for i in set(full.encode(text))]
    while stack:
        pair = pair_by_token.get(stack.pop())
        if pair and pair not in merges:
            merges.add(pair)
            stack.extend(pair)
    return sorted(merges, key=full.bpe_ranks.__getitem__)


def vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Token ids in open_clip's order: bytes, bytes that end a word, merges, start, end."""
    from open_clip.tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(c + "</w>" for c in letters), *map("".join, merges), START, END]
    return {token: i for i, token in enumerate(tokens)}


def tokenizer_json(merges: list[tuple[str, str]]) -> str:
    """The same tokenizer for the ``tokenizers`` library, with padding (id 0) and truncation."""
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    vocab = vocabulary(merges)
    model = models.BPE(
        vocab, merges, continuing_subword_prefix="", end_of_word_suffix="</w>",
        unk_token=END, fuse_unk=False,
    )  # fmt: skip
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex("[‘’]"), "'"),  # as open_clip's ftfy does
            normalizers.Replace(Regex("[“”]"), '"'),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("</w>", " "), decoders.ByteLevel(), decoders.Strip(" ", 0, 1)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocab[START]), (END, vocab[END])]
    )
    tokenizer.add_special_tokens([START, END, HF_PAD])
    tokenizer.enable_truncation(CONTEXT)
    tokenizer.enable_padding(pad_id=0, pad_token="!", length=CONTEXT)
    return str(tokenizer.to_str(pretty=False))


def write(merges: list[tuple[str, str]], out: Path) -> dict[str, Any]:
    """Write the merges for open_clip's SimpleTokenizer, ``tokenizer.json`` and its HF settings."""
    out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(["#version: 0.2 (pruned)", *(" ".join(pair) for pair in merges)])
    (out / BPE_FILE).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    (out / "tokenizer.json").write_text(tokenizer_json(merges), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": HF_PAD,
        "sep_token": HF_PAD,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    vocab = vocabulary(merges)
    return {"vocab_size": len(vocab), "start": vocab[START], "end": vocab[END], "pad": 0}


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kit", type=Path, default=kit_path())
    parser.add_argument("--out", type=Path, default=teacher_path())
    arguments = parser.parse_args()
    figures = write(prune(kit_words(arguments.kit)), arguments.out)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
