from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import TorchEmbedder, load_clip, save_local_dir, weights_hash


def picture(seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (50, 40, 3), dtype=np.uint8))


def test_open_clip_itself_opens_the_folder(toy_teacher, toy_teacher_folder):
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{toy_teacher_folder}")
    model.eval()
    pixels = transform(picture())[None]
    assert torch.equal(pixels[0], toy_teacher.preprocess(picture()))
    ids = toy_teacher.tokenizer(["a photo of a cat"])
    with torch.inference_mode():
        image = model.encode_image(pixels, normalize=True).numpy()
        text = model.encode_text(ids, normalize=True).numpy()
    ours = TorchEmbedder(toy_teacher)
    np.testing.assert_allclose(ours.encode_image([picture()]), image, atol=1e-6)
    np.testing.assert_allclose(ours.encode_text(["a photo of a cat"]), text, atol=1e-6)


def test_half_is_half_the_bytes_and_keeps_scalars(toy_teacher, toy_teacher_folder, tmp_path):
    save_local_dir(tmp_path / "half", toy_teacher, half=True)
    name = "open_clip_model.safetensors"
    state = safetensors.torch.load_file(tmp_path / "half" / name)
    assert {t.dtype for k, t in state.items() if k != "logit_scale"} == {torch.float16}
    assert torch.equal(state["logit_scale"], toy_teacher.model.logit_scale)
    sizes = [(f / name).stat().st_size for f in (tmp_path / "half", toy_teacher_folder)]
    assert sizes[0] / sizes[1] == pytest.approx(0.5, abs=0.01)
    loaded = load_clip(str(tmp_path / "half"))
    full, half = TorchEmbedder(toy_teacher), TorchEmbedder(loaded)
    np.testing.assert_allclose(
        half.encode_image([picture()]), full.encode_image([picture()]), atol=3e-3
    )


def test_weight_beyond_float16_is_named(toy_teacher, tmp_path):
    toy_teacher.model.visual.proj.data[0, 0] = 1e6
    with pytest.raises(ModelError, match=r"visual\.proj does not fit into float16"):
        save_local_dir(tmp_path / "out", toy_teacher, half=True)
    assert list(tmp_path.iterdir()) == []


def test_failed_save_leaves_the_older_folder(toy_teacher, tmp_path):
    save_local_dir(tmp_path / "out", toy_teacher)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    toy_teacher.model.visual.proj.data[0, 0] = 1e6
    with pytest.raises(ModelError):
        save_local_dir(tmp_path / "out", toy_teacher, half=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_below_a_file_is_named(toy_teacher, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match=r"cannot write .*file/x/student: Not a directory$"):
        save_local_dir(tmp_path / "file" / "x" / "student", toy_teacher)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        safetensors.SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_line_and_keeps_the_older_folder(
    toy_teacher, tmp_path, monkeypatch, error
):
    save_local_dir(tmp_path / "out", toy_teacher)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}

    def full(*_args, **_options):
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(ModelError, match=r"cannot write .*out: .*No space left") as caught:
        save_local_dir(tmp_path / "out", toy_teacher)
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_saving_replaces_and_carries_tokenizer_files(toy_teacher_folder, tmp_path):
    source = tmp_path / "source"
    save_local_dir(source, load_clip(str(toy_teacher_folder)))
    (source / "tokenizer_config.json").write_text('{"model_max_length": 16}')
    clip = load_clip(str(source))
    save_local_dir(tmp_path / "out", clip)
    (tmp_path / "out" / "stale.txt").write_text("x")
    save_local_dir(tmp_path / "out", clip)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    again = load_clip(str(tmp_path / "out"))
    texts = ["a photo of a cat", "", "red bicycle " * 20]
    assert torch.equal(again.tokenizer(texts), clip.tokenizer(texts))
    assert weights_hash(again.model) == weights_hash(clip.model)


def test_saving_over_its_own_source_keeps_the_tokenizer(toy_teacher_folder, tmp_path):
    save_local_dir(tmp_path / "out", load_clip(str(toy_teacher_folder)))
    save_local_dir(tmp_path / "out", load_clip(str(tmp_path / "out")))
    assert load_clip(str(tmp_path / "out")).tokenizer_file is not None


def test_weights_hash_is_sha256_of_sorted_float32(toy_teacher):
    digest = hashlib.sha256()
    state = toy_teacher.model.state_dict()
    for key in sorted(state):
        array = state[key].numpy()
        digest.update(f"{key}{array.shape}\n".encode() + array.astype("<f4").tobytes())
    before = weights_hash(toy_teacher.model)
    assert before == digest.hexdigest()
    toy_teacher.model.ln_final.bias.data[7] += 1e-3
    assert weights_hash(toy_teacher.model) != before


def test_preprocess_of_the_config_is_honoured(toy_teacher):
    # A plain picture stays plain under any resize: (value / 255 - mean) / std by hand.
    plain = Image.new("RGB", (40, 40), (255, 51, 0))
    pixels = toy_teacher.preprocess(plain)
    assert pixels.shape == (3, 32, 32)
    for channel, expected in enumerate(((1 - 0.5) / 0.25, (0.2 - 0.5) / 0.25, -0.5 / 0.25)):
        assert pixels[channel].numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("name", "resample"), [("bicubic", 3), ("bilinear", 2)])
def test_interpolation_and_squash_of_the_config_are_honoured(
    toy_teacher_folder, tmp_path, name, resample
):
    import shutil

    folder = shutil.copytree(toy_teacher_folder, tmp_path / "m")
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["preprocess_cfg"].update(interpolation=name, resize_mode="squash")
    path.write_text(json.dumps(config))
    pixels = load_clip(str(folder)).preprocess(picture())
    resized = np.asarray(picture().resize((32, 32), resample), dtype=np.float32) / 255
    np.testing.assert_allclose(
        pixels.numpy(), ((resized - 0.5) / 0.25).transpose(2, 0, 1), atol=1e-6
    )


def test_missing_preprocess_cfg_means_openai_statistics(toy_teacher_folder, tmp_path):
    import shutil

    folder = shutil.copytree(toy_teacher_folder, tmp_path / "m")
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    del config["preprocess_cfg"]
    path.write_text(json.dumps(config))
    table = load_clip(str(folder)).config["preprocess_cfg"]
    # The statistics of openai/CLIP.
    assert table["mean"] == [0.48145466, 0.4578275, 0.40821073]
    assert table["std"] == [0.26862954, 0.26130258, 0.27577711]
    assert (table["size"], table["interpolation"]) == (32, "bicubic")


def test_a_folder_without_a_name_is_refused(toy_teacher, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ModelError, match=r"cannot write \.: .* choose a new folder"):
        save_local_dir(Path(), toy_teacher)
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]
