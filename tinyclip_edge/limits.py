"""Largest sizes that readers accept, so that no file can use up memory or time.

Those of shards are defaults of ``data.limits`` in a run configuration, which may raise them.
"""

from __future__ import annotations

from typing import TypeGuard

MIB = 1 << 20  # bytes

# JSON: configurations, manifests, index files.
JSON_BYTES = 16 * MIB
JSON_DEPTH = 64  # brackets within brackets
JSON_VALUES = 1_000_000  # values and keys; two bytes of text may take seventy of memory
SIZE_COUNT = 1 << 24  # of any dimension in a model configuration; a larger one means a broken file
TOKEN_CHARS = 1000  # of a token added to a vocabulary; time grows with the square of it
TEXT_GROWTH = 2000  # characters that a tokenizer's rules may make of one; published rules: 1,296
CHARSMAP_BYTES = 4 * MIB  # sentencepiece's character table in a tokenizer; NFKC's has 240 KB
TOKENIZER_BYTES = 128 * MIB  # tokenizer.json, vocab.json; Gemma's has 34 MB
TOKENIZER_VALUES = 4_000_000  # values and keys in them; Gemma's has 2.4 million
MERGES_BYTES = 4 * MIB  # merges.txt; CLIP's has 0.5 MB
PIECES_BYTES = 16 * MIB  # vocab.txt; LaBSE's has 5 MB

# YAML: run configurations, export presets, overrides.
YAML_BYTES = MIB
YAML_DEPTH = 32  # sections and lists within each other
YAML_NODES = 100_000  # values, those behind aliases counted each time they are used

# Tables: one row, JSON lines and quoted captions included.
ROW_BYTES = MIB

# Shards, unpacked.
MEMBER_BYTES = 64 * MIB  # one file
SAMPLE_BYTES = 128 * MIB  # all files of one key
SHARD_MEMBERS = 1_000_000  # files of one shard
HEADER_BYTES = MIB // 4  # headers before one file: pax records, long names, sparse maps
NAME_BYTES = 4096  # name of one file
UNPACK_RATIO = 100  # bytes that one byte of a .tar.gz may become, beyond the first RATIO_FROM
RATIO_FROM = 16 * MIB

COCO_BYTES = 256 * MIB  # a captions file; COCO's own has 92 MB
COCO_VALUES = 24_000_000  # values and keys in it; COCO's own has about 7 million

NAMES_BYTES = 16 * MIB  # a list of class names; WordNet's has 3 MB
CAPTION_BYTES = MIB  # NAME.txt beside a picture of a gallery
EVENT_VALUES = 10_000_000  # values and keys of a run's events, for a report; a step has about 30
TEXTS_BYTES = 256 * MIB  # labels, templates or a corpus, one per line

MESSAGE_CHARS = 2000  # of an error or a line of progress
WORD_CHARS = 300  # of a word without spaces, such as a path


def is_count(value: object, *, minimum: int = 1) -> TypeGuard[int]:
    """Whether a value from a file is a whole number of at least ``minimum``, not a Boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum
