"""Text towers of 248 tokens: Long-CLIP's and FG-CLIP's files, and students that read fewer."""

from __future__ import annotations

import json
import warnings

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers

from families import family
from hugging_face import embedding
from tinyclip_edge.errors import ModelError, TinyClipWarning
from tinyclip_edge.models import convert_checkpoint, create_student, inherit_student, load_clip
from tinyclip_export.towers.factory import image_tower, text_tower

SHORT, LONG = 77, 248
TEXTS = ["a red cat", "a photo of a bicycle", "a dog and a house in the rain at night " * 30]
ROUNDING = {"atol": 1e-6, "rtol": 0}


def marked(rows, width, seed):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 0.3


def masked_sum(first, further):
    """Positions as both papers' code adds them: two tables under masks of the first 20 rows."""
    rows = torch.arange(LONG)[:, None]
    return first * (rows < 20) + further * (rows >= 20)


def long_clip():
    """An OpenAI-like CLIP of 248 positions: heads are 64 wide."""
    return family(
        "Long-CLIP",
        vision_cfg={"width": 128, "head_width": 64, "layers": 2},
        text_cfg={"width": 128, "heads": 2, "layers": 2},
    )


def test_long_clips_two_tables_become_one(tmp_path):
    clip = long_clip()
    state = {key: tensor.clone() for key, tensor in clip.model.state_dict().items()}
    first, further = (marked(LONG, 128, seed) for seed in (1, 2))
    file = {**state, "positional_embedding": first, "positional_embedding_res": further}
    torch.save({key: tensor.half() for key, tensor in file.items()}, tmp_path / "longclip.pt")
    conversion = convert_checkpoint(str(tmp_path / "longclip.pt"))
    assert conversion.forms == ("A", "G", "J")
    assert conversion.activation.startswith("QuickGELU (as in Long-CLIP")
    assert conversion.clip.context_length == LONG
    expected = masked_sum(first, further).half().float()
    assert torch.equal(conversion.clip.model.state_dict()["positional_embedding"], expected)
    assert conversion.clip.tokenizer(TEXTS)[2].ne(0).sum() == LONG


@pytest.mark.parametrize("rows", [77, 20])
def test_tables_of_other_lengths_are_refused(tmp_path, rows):
    state = long_clip().model.state_dict()
    further = marked(rows, 128, 2)
    first = state["positional_embedding"][: 20 if rows == 20 else None]
    file = {**state, "positional_embedding": first, "positional_embedding_res": further}
    torch.save(file, tmp_path / "longclip.pt")
    with pytest.raises(ModelError, match=r"longclip\.pt: positional_embedding must have the shape"):
        convert_checkpoint(str(tmp_path / "longclip.pt"))


def save_clip_model(folder, positions):
    """Write a CLIPModel of transformers; return it."""
    text = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 3, "max_position_embeddings": positions}  # fmt: skip
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
              "num_attention_heads": 4, "image_size": 32, "patch_size": 16}  # fmt: skip
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=40)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    model.config.save_pretrained(folder)
    write(folder, model.state_dict())
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32},
                    "crop_size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3,
                    "image_std": [0.3] * 3})
    )  # fmt: skip
    return model


def write(folder, state):
    state = {key: tensor.contiguous().clone() for key, tensor in state.items()}
    safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def compare(clip, model):
    ids = clip.tokenizer(TEXTS)
    theirs = F.normalize(embedding(model.get_text_features(input_ids=ids)), dim=-1)
    ours = clip.model.encode_text(ids, normalize=True)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(text_tower(clip.model, ids[0])(ids), theirs, atol=1e-5, rtol=0)


def test_a_clip_model_of_248_positions(tmp_path):
    model = save_clip_model(tmp_path, LONG)
    clip = load_clip(str(tmp_path))
    assert clip.context_length == LONG
    compare(clip, model)


@pytest.fixture
def fg_clip(tmp_path):
    """The folder of an FG-CLIP; the models by which it reads short captions and long ones."""
    short = save_clip_model(tmp_path, SHORT)
    state = short.state_dict()
    original, further = (marked(LONG, 48, seed) for seed in (1, 2))
    projection = marked(40, 48, 3)
    positions = "text_model.embeddings.position_embedding"
    extra = {f"{positions}_ori.weight": original, f"{positions}_res.weight": further,
             "text_filip_projection.weight": projection,
             "logit_scale_finegraind": torch.tensor(1.0),
             "logit_scale_hardneg": torch.tensor(1.0)}  # fmt: skip
    (tmp_path / "long").mkdir()
    long = save_clip_model(tmp_path / "long", LONG)
    changes = {f"{positions}.weight": masked_sum(original, further),
               "text_projection.weight": projection}  # fmt: skip
    long.load_state_dict({**state, **changes}, strict=False)
    write(tmp_path, {**state, **extra})
    return tmp_path, short, long


def test_fg_clip_reads_short_captions_by_its_config(fg_clip):
    folder, short, _ = fg_clip
    with pytest.warns(TinyClipWarning, match="FG-CLIP: it is opened for texts of up to 77 tokens"):
        clip = load_clip(str(folder))
    assert clip.context_length == SHORT
    compare(clip, short)


def test_fg_clip_reads_long_captions_by_request(fg_clip):
    folder, _, long = fg_clip
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = LONG
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.warns(TinyClipWarning, match="opened for texts of up to 248 tokens"):
        clip = load_clip(str(folder))
    assert clip.context_length == LONG
    compare(clip, long)


def test_a_student_of_77_tokens_reads_short_texts_as_its_teacher(tmp_path):
    teacher = family("Long-CLIP")
    student = create_student({"text_cfg": {"context_length": SHORT}}, teacher)
    inherit_student(teacher, student)
    rows = teacher.model.state_dict()["positional_embedding"]
    assert torch.equal(student.model.state_dict()["positional_embedding"], rows[:SHORT])
    with torch.no_grad():
        ours, theirs = (
            clip.model.encode_text(clip.tokenizer(TEXTS), normalize=True)
            for clip in (student, teacher)
        )
    torch.testing.assert_close(ours[:2], theirs[:2], **ROUNDING)
    assert (ours[2] - theirs[2]).abs().max() > 1e-3  # it is cut


def test_exported_towers_of_248_tokens():
    clip = family("Long-CLIP")
    ids = clip.tokenizer(TEXTS)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        text, image = text_tower(clip.model, ids[0])(ids), image_tower(clip.model)(pixels)
        expected = clip.model.encode_text(ids, normalize=True)
        pictures = clip.model.encode_image(pixels, normalize=True)
    torch.testing.assert_close(text, expected, **ROUNDING)
    torch.testing.assert_close(image, pictures, **ROUNDING)
