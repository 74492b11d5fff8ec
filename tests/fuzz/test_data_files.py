"""Any bytes in shards, tables, checkpoints, configurations and kept features."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mangling import few, junk, mangled, mangled_json, only_our_errors, quick
from PIL import Image
from safetensors.torch import save as to_safetensors

from tinyclip_edge.config.load import configs_path, load_config
from tinyclip_edge.config.preset import load_preset
from tinyclip_edge.data.feature_part import BrokenPartError, PartFeatures, read_part, write_part
from tinyclip_edge.data.opening import open_source
from tinyclip_edge.data.pairs import UndecodableImageError, decode_image
from tinyclip_edge.models import load_clip
from tinyclip_edge.models.checkpoint_file import read_checkpoint
from tinyclip_edge.models.convert import convert_checkpoint
from tinyclip_edge.models.hf_config import read_model_cfg, read_preprocess_cfg


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for number in range(2):
            about = json.dumps({"concept": "c"}).encode()
            for name, data in (("png", png()), ("txt", b"a cat"), ("json", about)):
                member = tarfile.TarInfo(f"{number}.{name}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def read_pairs(path) -> None:
    for part in open_source(str(path)).parts:
        for pair in part:
            decode_image(pair.image)


@quick
@given(data=st.data())
@pytest.mark.parametrize("zipped", [False, True])
def test_shards(tmp_path, zipped, data):
    path = tmp_path / ("s.tar.gz" if zipped else "s.tar")
    if zipped:
        inner = st.one_of(junk(tar()).map(lambda b: gzip.compress(b, mtime=0)))
        content = data.draw(st.one_of(inner, junk(gzip.compress(tar(), mtime=0))))
    else:
        content = data.draw(junk(tar()))
    path.write_bytes(content)
    only_our_errors(lambda: read_pairs(path), UndecodableImageError)


@quick
@given(about=mangled({"caption": "a cat", "concept": "c", "more": [1]}))
def test_what_a_shards_json_says(tmp_path, about):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as file:
        for name, data in (("a.png", png()), ("a.json", json.dumps(about).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    only_our_errors(lambda: read_pairs(path), UndecodableImageError)


@quick
@given(data=st.data())
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_tables(tmp_path, suffix, data):
    (tmp_path / "a.png").write_bytes(png())
    path = tmp_path / f"t.{suffix}"
    if suffix == "jsonl":
        row = {"image": "a.png", "caption": "a cat", "concept": "c"}
        whole = b"\n".join([json.dumps(row).encode()] * 3)
        content = st.one_of(mangled_json(row).map(lambda b: b + b"\n" + whole), junk(whole))
    else:
        mark = b"\t" if suffix == "tsv" else b","
        rows = [[b"image", b"caption"], [b"a.png", b"a cat"], [b"a.png", b'"a, dog"']]
        content = junk(b"\n".join(mark.join(row) for row in rows))
    path.write_bytes(data.draw(content))
    only_our_errors(lambda: read_pairs(path), UndecodableImageError)


@quick
@given(data=st.data())
def test_captions_beside_images(tmp_path, data):
    folder = tmp_path / "pictures"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(data.draw(junk(png())))
    (folder / "a.txt").write_bytes(data.draw(st.binary(max_size=40)))
    only_our_errors(lambda: read_pairs(folder), UndecodableImageError)


def weights() -> dict[str, torch.Tensor]:
    return {"visual.proj": torch.eye(3), "logit_scale": torch.tensor(1.0)}


def saved(legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": weights()}, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@quick
@given(data=st.data())
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_checkpoints(tmp_path, form, data):
    valid = to_safetensors(weights()) if form == "safetensors" else saved(form == "legacy")
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    path.write_bytes(data.draw(junk(valid)))
    only_our_errors(lambda: read_checkpoint(path))
    only_our_errors(lambda: convert_checkpoint(str(path)))


def yamls(folder: str):
    for path in sorted((configs_path() / folder).glob("*.yaml"))[:2]:
        whole = path.read_bytes()
        value = yaml.safe_load(whole)
        dumped = mangled(value).map(
            lambda v: yaml.safe_dump(v, allow_unicode=True).encode("utf-8", "replace")
        )
        yield st.one_of(dumped, dumped, dumped, junk(whole))


@quick
@given(content=st.one_of(*yamls("runs")))
def test_run_configurations(tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    only_our_errors(lambda: load_config(path))


@quick
@given(text=st.one_of(st.text(max_size=30), st.sampled_from(["optim.steps=", "stages=[", "a.b=1"])))
def test_overrides(text):
    only_our_errors(lambda: load_config("starter", [text]))


@quick
@given(content=st.one_of(*yamls("export")))
def test_export_presets(tmp_path, content):
    path = tmp_path / "preset.yaml"
    path.write_bytes(content)
    only_our_errors(lambda: load_preset(path))


@few
@given(data=st.data())
def test_open_clip_config(toy_teacher_folder, tmp_path, data):
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    for path in toy_teacher_folder.iterdir():
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    config = json.loads((toy_teacher_folder / "open_clip_config.json").read_text())
    (folder / "open_clip_config.json").unlink()
    (folder / "open_clip_config.json").write_bytes(data.draw(mangled_json(config)))
    only_our_errors(lambda: load_clip(str(folder)))


HUGGING_FACE = {
    "model_type": "clip",
    "projection_dim": 64,
    "logit_scale_init_value": 2.6592,
    "text_config": {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "vocab_size": 600,
        "hidden_act": "quick_gelu",
        "eos_token_id": 2,
        "layer_norm_eps": 1e-5,
    },
    "vision_config": {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
}
PREPROCESSOR = {
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
}


@quick
@given(content=mangled_json(HUGGING_FACE))
def test_hugging_face_config(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    only_our_errors(lambda: read_model_cfg(path))


@quick
@given(content=mangled_json(PREPROCESSOR))
def test_hugging_face_preprocessor(tmp_path, content):
    (tmp_path / "preprocessor_config.json").write_bytes(content)
    only_our_errors(lambda: read_preprocess_cfg(tmp_path, 32))


@quick
@given(data=st.data())
def test_kept_features(tmp_path, data):
    path = tmp_path / "part.safetensors"
    part = PartFeatures(
        image=np.zeros((2, 1, 4), np.float16),
        seeds=np.zeros((2, 1), np.int64),
        samples=np.zeros((2, 16), np.uint8),
        text=np.zeros((1, 4), np.float16),
        captions=np.zeros((1, 16), np.uint8),
    )
    write_part(path, {"recipe": "r"}, part)
    path.write_bytes(data.draw(junk(path.read_bytes())))
    only_our_errors(lambda: read_part(path, {"recipe": "r"}), BrokenPartError)
