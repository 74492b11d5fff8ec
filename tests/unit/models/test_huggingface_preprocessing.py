"""How pictures are prepared for a Hugging Face folder: its files, and CLIP's own values."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from hf_folders import edit
from PIL import Image

from refused_model import refused
from tinyclip_edge.errors import TinyClipWarning
from tinyclip_edge.models import load_clip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": {"shortest_edge": 36}}, "resizes to 36 and crops to 32x32 pixels"),
        ({"crop_size": {"height": 24, "width": 24}}, "crops to 24x24 pixels; the model takes 32"),
        ({"do_normalize": False}, "do_normalize is off"),
        ({"size": {"shortest_edge": [32]}}, "resizes to [32] and crops to 32x32 pixels"),
        ({"rescale_factor": 1.0}, "rescale_factor must be 1/255"),
        ({"rescale_factor": "1/255"}, "rescale_factor must be 1/255"),
        ({"resample": 4}, "interpolation '4'"),
    ],
)
def test_preprocessing_that_open_clip_has_not(hf_folder, changes, message):
    edit(hf_folder / "preprocessor_config.json", **changes)
    refused(hf_folder, "preprocessor_config.json", message)


def test_without_a_preprocessor_file_it_is_openais(hf_folder):
    (hf_folder / "preprocessor_config.json").unlink()
    with pytest.warns(TinyClipWarning, match="CLIP's own mean, std") as warned:
        table = load_clip(str(hf_folder)).config["preprocess_cfg"]
    assert len(warned) == 1
    assert table["mean"] == [0.48145466, 0.4578275, 0.40821073]
    assert table["size"] == 32


# As CLIPProcessor of transformers 5 saves it, with another mean, std and filter than CLIP's.
PROCESSOR = {
    "image_processor": {
        "crop_size": {"height": 32, "width": 32},
        "data_format": "channels_first",
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.1, 0.2, 0.3],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.5, 0.25, 0.2],
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 32},
    },
    "processor_class": "CLIPProcessor",
}


@pytest.mark.filterwarnings("error")
def test_the_image_processor_inside_processor_config(hf_folder):
    (hf_folder / "preprocessor_config.json").unlink()
    (hf_folder / "processor_config.json").write_text(json.dumps(PROCESSOR))
    clip = load_clip(str(hf_folder))
    table = clip.config["preprocess_cfg"]
    assert table["mean"] == [0.1, 0.2, 0.3]
    assert table["std"] == [0.5, 0.25, 0.2]
    assert table["interpolation"] == "bilinear"
    # by hand: 0.2, 0.4 and 0.8 of full light, less the mean, over std
    pixels = clip.preprocess(Image.new("RGB", (48, 40), (51, 102, 204)))
    expected = torch.tensor([0.2, 0.8, 2.5])[:, None, None].expand(3, 32, 32)
    torch.testing.assert_close(pixels, expected, atol=1e-6, rtol=0)
    # its transform is the bilinear one: a step between dark and light by hand
    step = Image.new("RGB", (64, 64))
    step.paste((255, 255, 255), (33, 0, 64, 64))
    row = clip.preprocess(step)[0, 0] * 0.5 + 0.1
    # a triangle of 4 source pixels: weights 1, 3, 3, 1 of 8; columns 31 to 34 make column 16
    assert row[15:18].mul(8).round().tolist() == [0, 4, 8]


def test_the_own_file_of_the_image_processor_goes_first(hf_folder):
    own = load_clip(str(hf_folder)).config["preprocess_cfg"]
    (hf_folder / "processor_config.json").write_text(json.dumps(PROCESSOR))
    assert load_clip(str(hf_folder)).config["preprocess_cfg"] == own
    (hf_folder / "preprocessor_config.json").unlink()
    (hf_folder / "processor_config.json").write_text(json.dumps({"image_processor": [1]}))
    refused(hf_folder, "processor_config.json", "image_processor must be a table")


def test_the_hub_gives_processor_config(hf_hub):
    folder, _ = hf_hub
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps(PROCESSOR))
    table = load_clip("hf-hub:someone/toy").config["preprocess_cfg"]
    assert table["mean"] == [0.1, 0.2, 0.3]


def test_the_command_line_says_the_warning_in_one_line(hf_folder, command_line, tmp_path):
    (hf_folder / "preprocessor_config.json").unlink()
    with pytest.warns(TinyClipWarning) as warned:
        code, _, _ = command_line("convert", hf_folder, "--out", tmp_path / "out")
    assert code == 0
    (one,) = warned
    line = warnings.formatwarning(one.message, one.category, one.filename, one.lineno)
    assert line.startswith(f"warning: {hf_folder} has no preprocessor_config.json")
    assert line.count("\n") == 1
