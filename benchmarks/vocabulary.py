"""SigLIP 2's text tower at full size with 30,000 of its 256,000 tokens: bytes and embeddings.

The tower is that of open_clip's ViT-B-16-SigLIP2 with random weights. Its tokenizer is a stand-in
of the same kind and size (byte-pair merges of characters, all splits of a token, byte fallback),
because the real one would have to be downloaded. The image tower is small: only texts are measured.

    python benchmarks/vocabulary.py --out benchmarks/results/vocabulary.json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from machine import machine_facts
from tinyclip_edge.config.preset import ExportPreset
from tinyclip_edge.models import LoadedClip, create_student, inherit_student
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.corpus import Corpus
from tinyclip_edge.models.library import open_clip
from tinyclip_edge.models.pieces import BYTES
from tinyclip_edge.models.vocabulary import Vocabulary
from tinyclip_export.onnx_passes import exporter
from tinyclip_export.quantization.recipe import QuantizeJob
from tinyclip_export.quantization.registry import recipes_for
from tinyclip_export.towers.factory import input_form, text_tower

MODEL = "ViT-B-16-SigLIP2"
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
IMAGE = {"image_size": 32, "patch_size": 32, "width": 64, "head_width": 64, "layers": 1}
STUDENT = {"embed_dim": 384, "text_cfg": {"width": 384, "heads": 6, "layers": 6}}
LONGEST = 12  # characters of a token
WORDS, TEXTS, EMBEDDED = 60_000, 80_000, 128
TOLERANCE = 1e-6
MEGABYTE = 1e6


def write_tokenizer(folder: Path, size: int) -> Path:
    """Write a tokenizer.json of Gemma's kind whose tokens are random merges of characters."""
    chance = random.Random(0)
    scripts = ((0x61, 26), (0x30, 10), (0xE0, 31), (0x3B1, 24), (0x430, 32), (0x3041, 86))
    letters = ["▁", *(chr(start + i) for start, count in scripts for i in range(count))]
    letters += [chr(0x4E00 + i) for i in range(3000)]
    pieces = dict.fromkeys([*SPECIAL, *BYTES, *letters])
    parts = letters[:160]
    while len(pieces) < size:
        # Early tokens are parts of many others, as in a trained vocabulary.
        first, second = (parts[int(len(parts) * chance.random() ** 3)] for _ in range(2))
        piece = first + second
        if len(piece) <= LONGEST and "▁" not in second and piece not in pieces:
            pieces[piece] = None
            parts.append(piece)
    ids = {piece: number for number, piece in enumerate(pieces)}
    merges = [
        [piece[:at], piece[at:]]
        for piece in parts
        for at in range(1, len(piece))
        if piece[:at] in ids and piece[at:] in ids
    ]
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [
            {"id": ids[name], "content": name, **added, "special": True} for name in SPECIAL
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<eos>", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {"<eos>": {"id": "<eos>", "ids": [1], "tokens": ["<eos>"]}},
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "byte_fallback": True,
            "fuse_unk": True,
            "vocab": ids,
            "merges": merges,
        },
    }
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    settings = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def captions(tokenizer: Path) -> list[str]:
    """Return texts of words that are single tokens, some far more frequent than others."""
    chance = random.Random(1)
    pieces = list(json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"])
    words = [piece for piece in pieces[300:] if "▁" not in piece and len(piece) > 1]
    words = chance.sample(words, min(WORDS, len(words)))
    return [
        " ".join(
            words[int(len(words) * chance.random() ** 3)] for _ in range(chance.randint(3, 12))
        )
        for _ in range(TEXTS)
    ]


def text_model(tokenizer: Path, size: int, changes: dict[str, Any]) -> LoadedClip:
    """Return the model with its text tower at full size, or with ``changes`` to text_cfg."""
    config = open_clip.get_model_config(MODEL)
    config["vision_cfg"] = IMAGE
    config["text_cfg"] |= {"vocab_size": size, **changes}
    config["embed_dim"] = config["text_cfg"]["width"]
    torch.manual_seed(0)
    return assemble(config, None, name=MODEL, tokenizer_file=tokenizer)


def megabytes(clip: LoadedClip, folder: Path) -> dict[str, float]:
    """Return the size of the text tower's files by precision in MB."""
    tower = text_tower(clip.model, clip.tokenizer(["a"])[0])
    source = folder / "text.onnx"
    exporter.export_text_tower(tower, source, form=input_form(clip, tower, None))
    sizes = {"fp32": source.stat().st_size / MEGABYTE}
    for name, bits in (("int8", 8), ("int8, 4-bit table", 4)):
        recipe = recipes_for("int8", ExportPreset().with_token_table(bits), convolutional=False).of(
            "text"
        )
        target = folder / "quantized.onnx"
        recipe.write(QuantizeJob("text", source, target))
        sizes[name] = target.stat().st_size / MEGABYTE
        target.unlink()
    source.unlink()
    sizes = {name: round(size, 1) for name, size in sizes.items()}
    print(f"{clip.vocabulary:,} tokens: {sizes}", file=sys.stderr, flush=True)
    return sizes


@torch.inference_mode()
def embeddings(clip: LoadedClip, texts: list[str]) -> torch.Tensor:
    """Return ``[N, D]``."""
    encode: Any = clip.model.encode_text
    return torch.cat([encode(clip.tokenizer(texts[i : i + 32])) for i in range(0, len(texts), 32)])


def covered_texts(corpus: Corpus, ids: list[int]) -> list[str]:
    """Return some texts whose tokens are all retained."""
    covered = corpus.covered(ids).nonzero()[0][:EMBEDDED]
    return [corpus.texts[number] for number in covered.tolist()]


def measure(tokens: int, size: int, changes: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Cut the vocabulary from ``size`` to ``tokens``, compare with the whole, and export both."""
    tokenizer = write_tokenizer(folder, size)
    whole = text_model(tokenizer, size, changes)
    began = time.perf_counter()
    vocabulary = Vocabulary(whole)
    corpus = vocabulary.read(captions(tokenizer), "the captions")
    ids = vocabulary.commonest(corpus, tokens)
    small = vocabulary.cut(ids)
    report = vocabulary.compare(small, ids, corpus)
    seconds = time.perf_counter() - began
    texts = covered_texts(corpus, ids)
    difference = float((embeddings(whole, texts) - embeddings(small, texts)).abs().max())
    student = create_student(STUDENT, small, own_tokens=False)
    inherit_student(small, student, plan="evenly")
    name = "text.token_embedding.weight"
    table, rows = (clip.model.get_parameter(name) for clip in (student, whole))
    print(f"{report.line()}; largest difference {difference:.2g}", file=sys.stderr, flush=True)
    inherited = torch.equal(table, rows[ids][:, : table.shape[1]])
    return {
        "model": MODEL,
        "vocabulary": report.line(),
        "seconds to choose and cut": round(seconds, 1),
        "embedded texts": len(texts),
        "largest difference of a component": difference,
        "MB of the text tower": {
            f"{report.of:,} tokens": megabytes(whole, folder),
            f"{report.tokens:,} tokens": megabytes(small, folder),
            f"{report.tokens:,} tokens, 6 layers of width 384": megabytes(student, folder),
        },
        "rows of the student are the teacher's": inherited,
    }


def main() -> None:
    """Measure, print and write the figures; fail if embeddings differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--tokens", type=int, default=30_000)
    parser.add_argument("--size", type=int, default=256_000)
    parser.add_argument("--changes", type=json.loads, default={}, help="changes to text_cfg")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options.tokens, options.size, options.changes, Path(folder))
    figures["machine"] = machine_facts()
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    if figures["largest difference of a component"] > TOLERANCE:
        raise SystemExit("embeddings of covered texts differ")


if __name__ == "__main__":
    main()
