"""Checkpoint files and model folders of open_clip and of Hugging Face."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from driver import Reader
from model_mutations import changed_safetensors, changed_state
from mutations import Mutation, changed_bytes, changed_file, changed_json, named, placed
from safetensors.torch import save as to_safetensors

from checkpoint_layouts import twice
from tinyclip_edge.models import load_clip
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.convert import convert_checkpoint
from tinyclip_edge.models.folder import save_local_dir
from tinyclip_edge.models.pruned import assemble_config
from tinyclip_edge.models.pruned_units import UNITS
from tinyclip_edge.models.tokenizer_files import from_vocabulary

SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY = {"a": 0, "b": 1, "ab": 2, START: 3, END: 4}
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [
        {"id": VOCABULARY[name], "content": name, "special": True, **SPECIAL}
        for name in (START, END)
    ],
    "model": {"type": "BPE", "vocab": VOCABULARY, "merges": [["a", "b"]]},
}
MODEL_CFG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1, "head_width": 64},
    "text_cfg": {"context_length": 8, "width": 64, "heads": 1, "layers": 1, "vocab_size": 5},
}
TOWER = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1,
         "num_attention_heads": 1, "hidden_act": "gelu"}  # fmt: skip
HUGGING_FACE = {
    "model_type": "clip",
    "projection_dim": 8,
    "text_config": {**TOWER, "vocab_size": 5, "max_position_embeddings": 8, "eos_token_id": 4},
    "vision_config": {**TOWER, "image_size": 16, "patch_size": 8},
}
UNIT_TABLE = {
    "image": {"width": 64, "head_width": 64, "heads": [0], "neurons": [100], "positions": 5},
    "text": {"width": 64, "head_width": 64, "heads": [1], "neurons": [0], "positions": 8},
    "embed_dim": 8, "patch": 8,
}  # fmt: skip
PREPROCESSOR = {
    "size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, "resample": 3,
    "do_center_crop": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip


def small(folder: Path):
    """A CLIP of 64 neurons, its tokenizer in a folder."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(TOKENIZER))
    return assemble(MODEL_CFG, None, name="small", tokenizer_file=path)


def state(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in small(folder).model.state_dict().items()}


def saved(content: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def torch_files(folder: Path) -> list[bytes]:
    import argparse

    weights = state(folder)
    arguments = argparse.Namespace(model="ViT-B-32", force_quick_gelu=False)
    wrapped = {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in weights.items()}}
    return [
        saved(weights),
        saved({**wrapped, "args": vars(arguments)}),
        saved(wrapped, legacy=True),
    ]


def safetensors_files(folder: Path) -> list[bytes]:
    return [to_safetensors(state(folder))]


def converter(suffix: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        path = folder / f"weights{suffix}"
        path.write_bytes(content)
        convert_checkpoint(str(path))

    return read


def open_clip_folder(folder: Path) -> Path:
    """A model folder in open_clip's layout, made once."""
    model = folder / "open_clip"
    if not model.is_dir():
        save_local_dir(model, small(folder))
        (model / "tokenizer_config.json").write_text(json.dumps({"pad_token": END}))
    return model


def pruned_folder(folder: Path) -> Path:
    """A folder of a CLIP whose layers differ, made once."""
    model = folder / "pruned"
    if not model.is_dir():
        full = small(folder)
        config = {**full.config, UNITS: UNIT_TABLE}
        clip = assemble_config(config, name="cut", tokenizer_file=full.tokenizer_file)
        save_local_dir(model, clip)
    return model


def hugging_face_folder(folder: Path) -> Path:
    """A CLIPModel's folder, made once."""
    model = folder / "hugging_face"
    if not model.is_dir():
        from tinyclip_edge.models.hf_weights import to_huggingface

        model.mkdir()
        (model / "model.safetensors").write_bytes(
            to_safetensors(to_huggingface(state(folder), "small"))
        )
        for name, content in (
            ("config.json", HUGGING_FACE),
            ("preprocessor_config.json", PREPROCESSOR),
            ("vocab.json", VOCABULARY),
        ):
            (model / name).write_text(json.dumps(content))
        (model / "merges.txt").write_text("#version: 0.2\na b\n")
    return model


def files(make: Callable[[Path], Path], kinds: Mapping[str, Mutation]):
    def valid(folder: Path) -> list[bytes]:
        return [named(name, (make(folder) / name).read_bytes()) for name in kinds]

    return valid


def opener(make: Callable[[Path], Path]) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        model = make(folder)
        from_vocabulary.cache_clear()
        with placed(model, content), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_clip(str(model)).tokenizer(["a photo of ab, é"])

    return read


def config_reader(change: Callable[[dict], dict]) -> Callable[[Path, bytes], None]:
    """Take the config of a bare weight file, in one of the published forms."""

    def read(folder: Path, content: bytes) -> None:
        weights, config = folder / "weights.pt", folder / "config.json"
        if not weights.is_file():
            weights.write_bytes(saved(change(state(folder))))
        config.write_bytes(content)
        convert_checkpoint(str(weights), config=str(config))

    return read


def configs(folder: Path) -> list[bytes]:
    return [json.dumps(table).encode() for table in (MODEL_CFG, {"model_cfg": MODEL_CFG},
                                                     HUGGING_FACE)]  # fmt: skip


OPEN_CLIP_KINDS = {
    "open_clip_config.json": changed_json,
    "open_clip_model.safetensors": changed_safetensors,
    "tokenizer.json": changed_json,
    "tokenizer_config.json": changed_json,
}
PRUNED_KINDS = {
    "tinyclip_edge_config.json": changed_json,
    "tinyclip_edge_model.safetensors": changed_safetensors,
}
HUGGING_FACE_KINDS = {
    "config.json": changed_json,
    "model.safetensors": changed_safetensors,
    "preprocessor_config.json": changed_json,
    "vocab.json": changed_json,
    "merges.txt": changed_bytes,
}
READERS = (
    Reader("torch checkpoint", torch_files, changed_state, converter(".pt"), weight=0.3),
    Reader("safetensors checkpoint", safetensors_files, changed_safetensors,
           converter(".safetensors"), weight=0.3),
    Reader("open_clip folder", files(open_clip_folder, OPEN_CLIP_KINDS),
           changed_file(OPEN_CLIP_KINDS), opener(open_clip_folder), weight=0.3),
    Reader("pruned folder", files(pruned_folder, PRUNED_KINDS), changed_file(PRUNED_KINDS),
           opener(pruned_folder), weight=0.3),
    Reader("config of a weight file", configs, changed_json, config_reader(dict), weight=0.3),
    Reader("config of a pruned file", configs, changed_json, config_reader(twice), weight=0.3),
    Reader("Hugging Face folder", files(hugging_face_folder, HUGGING_FACE_KINDS),
           changed_file(HUGGING_FACE_KINDS), opener(hugging_face_folder), weight=0.3),
)  # fmt: skip
