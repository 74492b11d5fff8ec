"""CoCa models are read as their two towers."""

from __future__ import annotations

import warnings

import open_clip
import pytest
import torch

from coca import TEXTS, make_coca, pictures, save_coca
from tinyclip_edge.errors import InheritanceError, ModelError, TinyClipWarning
from tinyclip_edge.models import create_student, inherit_student, load_clip, save_local_dir
from tinyclip_edge.models.build import check_model_cfg
from tinyclip_edge.models.coca import two_towers
from tinyclip_edge.models.hub import _wrap
from tinyclip_edge.models.vocabulary import Vocabulary


@torch.no_grad()
def features(model, ids):
    return model.encode_image(pictures(), normalize=True), model.encode_text(ids, normalize=True)


def test_the_towers_are_those_of_open_clip(tmp_path):
    model = save_coca(tmp_path / "coca")
    with pytest.warns(TinyClipWarning, match="captioning decoder is left out") as caught:
        clip = load_clip(str(tmp_path / "coca"))
    assert len(caught) == 1
    ids = clip.tokenizer(TEXTS)
    assert ids.shape == (4, 8) and clip.context_length == 8
    for ours, theirs in zip(features(clip.model, ids), features(model, ids), strict=True):
        assert torch.equal(ours, theirs)
    assert not [key for key in clip.model.state_dict() if "decoder" in key]


def test_what_was_read_is_saved_as_an_ordinary_clip(tmp_path):
    save_coca(tmp_path / "coca")
    with pytest.warns(TinyClipWarning):
        clip = load_clip(str(tmp_path / "coca"))
    save_local_dir(tmp_path / "again", clip)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TinyClipWarning)
        again = load_clip(str(tmp_path / "again"))
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'again'}")
    ids = clip.tokenizer(TEXTS)
    for a, b, c in zip(*(features(m, ids) for m in (clip.model, again.model, theirs)), strict=True):
        assert torch.equal(a, b) and torch.allclose(a, c, atol=1e-6)


def test_a_downloaded_one_is_reduced_to_its_towers():
    model, config = make_coca()
    with pytest.warns(TinyClipWarning, match="captioning decoder"):
        clip = _wrap(model, config, "coca")
    ids = clip.tokenizer(TEXTS)
    assert isinstance(clip.model, open_clip.CustomTextCLIP)
    for ours, theirs in zip(features(clip.model, ids), features(model, ids), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", [n for n in open_clip.list_models() if n.startswith("coca")])
def test_published_configurations_are_accepted(name):
    config = open_clip.get_model_config(name)
    check_model_cfg(config, name)
    towers = two_towers(config)
    assert "multimodal_cfg" not in towers and towers["custom_text"]
    assert "output_tokens" not in towers["vision_cfg"].keys() | towers["text_cfg"].keys()
    assert "multimodal_cfg" in config  # untouched


def test_weights_that_lack_a_tower_are_refused(tmp_path):
    save_coca(tmp_path / "coca", text_cfg={"layers": 4})
    other = save_coca(tmp_path / "other", text_cfg={"layers": 3})
    assert other is not None
    source = tmp_path / "other" / "open_clip_model.safetensors"
    source.replace(tmp_path / "coca" / source.name)
    with pytest.warns(TinyClipWarning), pytest.raises(ModelError, match="missing"):
        load_clip(str(tmp_path / "coca"))


@pytest.fixture
def teacher(tmp_path):
    save_coca(tmp_path / "coca", vision_cfg={"attn_pooler_heads": 3})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_clip(str(tmp_path / "coca"))


def test_half_the_width_takes_whole_heads_of_the_pool(teacher):
    shape = {
        "embed_dim": 32,
        "vision_cfg": {"width": 48, "layers": 2},
        "text_cfg": {"width": 32, "layers": 2, "heads": 2},
    }
    student = create_student(shape, teacher)
    assert student.config["model_cfg"]["vision_cfg"]["attn_pooler_heads"] == 2
    inherit_student(teacher, student, plan="evenly")
    ours, theirs = student.model.state_dict(), teacher.model.state_dict()
    pool = "visual.attn_pool.attn."
    assert torch.equal(ours[f"{pool}k_proj_weight"], theirs[f"{pool}k_proj_weight"][:32, :48])
    bias = theirs[f"{pool}in_proj_bias"].view(3, 48)[:, :32].flatten()
    assert torch.equal(ours[f"{pool}in_proj_bias"], bias)
    assert torch.equal(ours["visual.proj"], theirs["visual.proj"][:32, :32])
    assert torch.equal(ours["visual.attn_pool.query"], theirs["visual.attn_pool.query"][:, :32])


def test_a_shorter_context_leaves_the_class_token_its_position(teacher):
    student = create_student({"text_cfg": {"context_length": 5}}, teacher)
    inherit_student(teacher, student)
    ours, theirs = (c.model.state_dict()["text.positional_embedding"] for c in (student, teacher))
    assert len(theirs) == 9
    assert torch.equal(ours, theirs[[0, 1, 2, 3, 4, 8]])


def test_a_tower_as_wide_as_its_embedding_is_refused_in_one_line(teacher):
    student = create_student({"vision_cfg": {"width": 48, "layers": 2}}, teacher)
    with pytest.raises(InheritanceError, match="another width or embed_dim"):
        inherit_student(teacher, student)


def test_masks_and_importance_are_refused_in_one_line(teacher):
    student = create_student({}, teacher)
    ids = teacher.tokenizer(TEXTS)
    with pytest.raises(InheritanceError, match="ViT with an attention pool; set inherit"):
        inherit_student(teacher, student, plan="importance", calibration=(pictures(), ids))


def test_a_smaller_vocabulary_hides_the_same_padding(teacher):
    vocabulary = Vocabulary(teacher)
    corpus = vocabulary.read(TEXTS[:3], "the texts")
    small = vocabulary.cut(vocabulary.needed(corpus))
    with torch.no_grad():
        before, after = (c.model.encode_text(c.tokenizer(TEXTS[:3])) for c in (teacher, small))
    torch.testing.assert_close(after, before, atol=1e-6, rtol=0)
