"""Configurations and tokenizers of model folders."""

from __future__ import annotations

import json
from pathlib import Path

from driver import Reader
from hostile import HOSTILE_BYTES
from mutations import changed_bytes, changed_json

from tinyclip_edge.models.folder import read_config
from tinyclip_edge.models.hf_config import read_model_cfg
from tinyclip_edge.runtime.tokenizer import ClipTokenizer
from tinyclip_edge.starter import teacher_path

NESTED = [b"[" * 5000, b'{"model_cfg":' * 5000, b'{"a":' * 70 + b"1" + b"}" * 70]
HF = {
    "model_type": "clip",
    "projection_dim": 8,
    "text_config": {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
                    "intermediate_size": 64, "vocab_size": 100, "max_position_embeddings": 9},
    "vision_config": {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
                      "intermediate_size": 64, "image_size": 16, "patch_size": 8},
}  # fmt: skip
SMALL_TOKENIZER = {
    "version": "1.0",
    "added_tokens": [
        {"id": i, "content": text, "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for i, text in enumerate(["<|startoftext|>", "<|endoftext|>"], 3)
    ],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                      "use_regex": True},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<|startoftext|>": 3,
                                       "<|endoftext|>": 4}, "merges": [["a", "b"]]},
}  # fmt: skip


def open_clip_configs(_: Path) -> list[bytes]:
    return [(Path(teacher_path()) / "open_clip_config.json").read_bytes()]


def read_open_clip(folder: Path, content: bytes) -> None:
    (folder / "open_clip_config.json").write_bytes(content)
    read_config(folder)


def read_hf(folder: Path, content: bytes) -> None:
    path = folder / "config.json"
    path.write_bytes(content)
    read_model_cfg(path)


def read_tokenizer(folder: Path, content: bytes) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(content)
    ClipTokenizer.from_file(path, 8)("a photo of ab, é")


READERS = (
    Reader("open_clip config", open_clip_configs, changed_json, read_open_clip,
           [*HOSTILE_BYTES, *NESTED]),
    Reader("Hugging Face config", lambda _: [json.dumps(HF).encode()], changed_json, read_hf,
           [*HOSTILE_BYTES, *NESTED]),
    Reader("tokenizer.json", lambda _: [json.dumps(SMALL_TOKENIZER).encode()], changed_json,
           read_tokenizer, [*HOSTILE_BYTES, *NESTED]),
    Reader("tokenizer.json, bytes", lambda _: [json.dumps(SMALL_TOKENIZER).encode()],
           changed_bytes, read_tokenizer),
)  # fmt: skip
