"""Hugging Face folders of CLIP's relatives beside transformers' own models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from tokenizers import BertWordPieceTokenizer

from hugging_face import embedding
from text_towers import FAIRSEQ, MARKED, WORDS, unigram
from tinyclip_edge.errors import ModelError
from tinyclip_edge.families.published import check_published
from tinyclip_edge.models import create_student, inherit_student, load_clip, save_local_dir
from tinyclip_export.towers.factory import image_tower, text_tower

TEXTS = ["a photo of a cat", "the red bicycle", "dog", "two blue circles in the rain"]
WITHIN = {"atol": 1e-5, "rtol": 0}
SIGLIP_MARKS = {"pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
TEXT = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 16}  # fmt: skip
VISION = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 3,
          "num_attention_heads": 4}  # fmt: skip
CROPPED = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32},
           "crop_size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3,
           "image_std": [0.3] * 3}  # fmt: skip


def save(folder, model, tokenizer, marks, processor):
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "embedding" in name and "patch" not in name:
                parameter.mul_(5)
    model.eval().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(marks))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


def siglip_tokenizer():
    return unigram(["<pad>", "</s>", "<unk>"], None, "</s>")


def save_siglip(folder, activation="gelu_pytorch_tanh", **vision):
    tokenizer = siglip_tokenizer()
    text = {**TEXT, "vocab_size": tokenizer.get_vocab_size(), "hidden_act": activation}
    tower = {**VISION, "image_size": 32, "patch_size": 16, "hidden_act": activation, **vision}
    torch.manual_seed(0)
    config = transformers.SiglipConfig(text_config=text, vision_config=tower)
    processor = {"image_processor_type": "SiglipImageProcessor",
                 "size": {"height": tower["image_size"], "width": tower["image_size"]},
                 "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.4] * 3}  # fmt: skip
    model = transformers.SiglipModel(config)
    return save(folder, model, tokenizer, SIGLIP_MARKS, processor)


def picture(seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (50, 40, 3), dtype=np.uint8))


def pixels(clip):
    return torch.stack([clip.preprocess(picture(seed)) for seed in range(3)])


def compare(clip, model, *, images=None, pad=None):
    """Compare with transformers' model; ``images`` embeds its pixels, ``pad`` masks its texts."""

    def texts(ids):
        mask = {} if pad is None else {"attention_mask": ids.ne(pad).long()}
        return model.get_text_features(input_ids=ids, **mask)

    images = images or (lambda pixels: model.get_image_features(pixel_values=pixels))
    with torch.no_grad():
        ours = clip.model.encode_image(pixels(clip)), clip.model.encode_text(clip.tokenizer(TEXTS))
        theirs = embedding(images(pixels(clip))), embedding(texts(clip.tokenizer(TEXTS)))
    for mine, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 0.1
        torch.testing.assert_close(mine, other, **WITHIN)
    ids = clip.tokenizer(TEXTS)
    with torch.no_grad():
        exported = image_tower(clip.model)(pixels(clip)), text_tower(clip.model, ids[0])(ids)
    for mine, other in zip(exported, theirs, strict=True):
        torch.testing.assert_close(mine, F.normalize(other, dim=-1), **WITHIN)


def check_saved(folder, clip):
    """Save a model, and return it as read again, with the same ids and text features."""
    save_local_dir(folder, clip)
    again = load_clip(str(folder))
    ids = clip.tokenizer(TEXTS)
    assert torch.equal(again.tokenizer(TEXTS), ids)
    with torch.no_grad():
        assert torch.equal(again.model.encode_text(ids), clip.model.encode_text(ids))
    return again


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation": "gelu"},
        {"patch_size": 14, "image_size": 30},  # so400m at 384: the patches do not cover it
        {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2},
    ],
)
def test_siglip(tmp_path, changes):
    model = save_siglip(tmp_path, **changes)
    clip = load_clip(str(tmp_path))
    compare(clip, model)
    assert clip.logit_scale == pytest.approx(model.logit_scale.exp().item(), rel=1e-6)
    assert clip.logit_bias == pytest.approx(model.logit_bias.item())
    steps = clip.config["preprocess_cfg"]
    assert (steps["mean"], steps["std"]) == ([0.5] * 3, [0.4] * 3)
    assert (steps["resize_mode"], steps["interpolation"]) == ("squash", "bilinear")


def test_siglip_2_keeps_the_punctuation_of_texts(tmp_path):
    """Letters are lower case in both; SigLIP also drops everything but letters and digits."""
    save_siglip(tmp_path)
    plain, marked = ["a red cat"], ["A red, cat!"]
    tokenizer = load_clip(str(tmp_path)).tokenizer
    assert torch.equal(tokenizer(plain), tokenizer(marked))
    marks = {**SIGLIP_MARKS, "tokenizer_class": "GemmaTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(marks))
    tokenizer = load_clip(str(tmp_path)).tokenizer
    assert torch.equal(tokenizer(["A RED cat"]), tokenizer(plain))
    assert not torch.equal(tokenizer(plain), tokenizer(marked))


def test_a_large_vocabulary_without_its_tokenizer_is_refused(tmp_path):
    config = {"model_type": "siglip", "text_config": {"vocab_size": 256000}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "SiglipImageProcessor",
                    "size": {"height": 224, "width": 224}})
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"vocabulary of 256000 and no tokenizer\.json"):
        load_clip(str(tmp_path))


def test_what_was_read_is_saved_and_read_again(tmp_path):
    save_siglip(tmp_path)
    clip = load_clip(str(tmp_path))
    again = check_saved(tmp_path / "again", clip)
    images = pixels(clip)
    with torch.no_grad():
        assert torch.equal(again.model.encode_image(images), clip.model.encode_image(images))


def test_siglip_of_a_published_size_is_an_ordinary_open_clip_model(tmp_path):
    """Read from the config alone: 1152 channels, 27 layers, patches of 16."""
    from tinyclip_edge.models.hf_config import read_model_cfg

    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
              "num_attention_heads": 16, "image_size": 512, "patch_size": 16}  # fmt: skip
    text = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
            "num_attention_heads": 16, "vocab_size": 256000}  # fmt: skip
    config = {"model_type": "siglip", "text_config": text, "vision_config": vision}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_model_cfg(tmp_path / "config.json")["vision_cfg"] == {
        "image_size": 512, "timm_model_name": "vit_so400m_patch16_siglip_256",
        "timm_pool": "map", "timm_proj": "none",
    }  # fmt: skip


def test_siglip2_on_its_square(tmp_path):
    tokenizer = siglip_tokenizer()
    text = {**TEXT, "vocab_size": tokenizer.get_vocab_size()}
    torch.manual_seed(0)
    config = transformers.Siglip2Config(
        text_config=text, vision_config={**VISION, "num_patches": 9, "patch_size": 8}
    )
    processor = {"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 9,
                 "patch_size": 8}  # fmt: skip
    model = save(tmp_path, transformers.Siglip2Model(config), tokenizer, SIGLIP_MARKS, processor)
    clip = load_clip(str(tmp_path))
    assert clip.image_size == 24

    def image_features(images):
        patches = images.unfold(2, 8, 8).unfold(3, 8, 8)  # [B, C, 3, 3, 8, 8]
        patches = patches.permute(0, 2, 3, 4, 5, 1).reshape(len(images), 9, -1)
        return model.get_image_features(
            pixel_values=patches,
            pixel_attention_mask=torch.ones(len(images), 9, dtype=torch.long),
            spatial_shapes=torch.tensor([[3, 3]] * len(images)),
        )

    compare(clip, model, images=image_features)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_metaclip_2_pools_at_its_end_token(tmp_path, activation):
    if not hasattr(transformers, "MetaClip2Config"):
        with pytest.raises(ModelError, match=r"install transformers 4\.56 or newer"):
            check_published("MetaCLIP 2 worldwide", tmp_path, 1e-5)
        return
    tokenizer = unigram(FAIRSEQ, "<s>", "</s>")
    shared = {"hidden_act": activation, "projection_dim": 48}
    text = {**TEXT, **shared, "vocab_size": tokenizer.get_vocab_size(), "eos_token_id": 2,
            "bos_token_id": 0, "pad_token_id": 1}  # fmt: skip
    vision = {**VISION, **shared, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    config = transformers.MetaClip2Config(text_config=text, vision_config=vision, projection_dim=48)
    model = save(tmp_path, transformers.MetaClip2Model(config), tokenizer, MARKED, CROPPED)
    clip = load_clip(str(tmp_path))
    text_cfg = clip.config["model_cfg"]["text_cfg"]
    assert (text_cfg["pool_type"], text_cfg["eos_id"]) == ("eos", 2)
    compare(clip, model)


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "two", "circle", "##s", *"猫狗红"]


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.txt"])
def test_chinese_clip(tmp_path, form):
    shared = {"projection_dim": 48}
    text = {**TEXT, **shared, "max_position_embeddings": 40, "vocab_size": len(PIECES)}
    vision = {**VISION, **shared, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    config = transformers.ChineseCLIPConfig(
        text_config=text, vision_config=vision, projection_dim=48
    )
    processor = {"image_processor_type": "ChineseCLIPImageProcessor", "do_center_crop": False,
                 "size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3,
                 "image_std": [0.3] * 3}  # fmt: skip
    pieces = BertWordPieceTokenizer({piece: number for number, piece in enumerate(PIECES)})
    marks = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    model = save(tmp_path, transformers.ChineseCLIPModel(config), pieces, marks, processor)
    if form == "vocab.txt":
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / "tokenizer_config.json").unlink()
        (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    clip = load_clip(str(tmp_path))
    assert clip.context_length == 40
    ids = clip.tokenizer(["猫 red"])[0]
    assert ids[:5].tolist() == [2, PIECES.index("猫"), PIECES.index("red"), 3, 0]
    compare(clip, model, pad=0)
    check_saved(tmp_path / "again", clip)


def test_altclip(tmp_path):
    tokenizer = unigram(FAIRSEQ, "<s>", "</s>")
    text = {**TEXT, "max_position_embeddings": 34, "project_dim": 56,
            "vocab_size": tokenizer.get_vocab_size()}  # fmt: skip
    vision = {**VISION, "projection_dim": 48, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    config = transformers.AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=48)
    model = save(tmp_path, transformers.AltCLIPModel(config), tokenizer, MARKED, CROPPED)
    clip = load_clip(str(tmp_path))
    assert clip.context_length == 32
    compare(clip, model, pad=1)
    student = create_student({"text_cfg": {"width": 32, "layers": 1}}, clip)
    report = inherit_student(clip, student, plan="evenly")
    assert report.text.tensors["fresh"] == 0
    check_saved(tmp_path / "student", student)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "jina_clip"}, "'jina_clip' model: its towers are Python files"),
        ({"model_type": "chinese_clip", "vision_config": {"hidden_act": "relu"}}, "hidden_act"),
        ({"model_type": "llava"}, "'llava' model; of the Hugging Face models AltCLIPModel"),
        ({"vision_config": {"hidden_act": "relu"}}, "vision_config.hidden_act 'relu' cannot be"),
        ({"vision_config": {"vision_use_head": False}}, "only towers with an attention pool"),
        ({"vision_config": {"layer_norm_eps": 1e-5}}, "layer_norm_eps must be 1e-06"),
        ({"text_config": {"projection_size": 12}}, "of images have 768 dimensions, of texts 12"),
        (
            {"model_type": "siglip2", "vision_config": {"num_patches": 7}},
            "7 is not a square number",
        ),
        ({"vision_config": {"patch_size": 0}}, "patch_size is 0, not a positive number"),
    ],
)
def test_what_cannot_be_opened_is_one_line(tmp_path, changes, message):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip", **changes}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError) as caught:
        load_clip(str(tmp_path))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(tmp_path / "config.json") in str(caught.value)
