"""Trimmed text gives open_clip's own features; towers that cannot be trimmed run in full."""

import open_clip
import pytest
import torch
import torch.nn.functional as F

from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.lean import can_trim
from tinyclip_edge.train.tasks.encoders import PairEncoder, TokenMemory, tokenize

TEXTS = {
    "short": ["cat", "a dog"],
    "mixed": ["cat", "a photo of the red square", "dog"],
    "grouped": ["a photo of the blue bicycle", "cat", "a dog", "red", "the red dog", "a cat!"],
    "cut": ["a photo of the cat " * 8, "cat"],
}


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
def test_trimmed_text_is_as_open_clip_encodes_it(toy_teacher, texts):
    encoder = PairEncoder(toy_teacher).eval()
    tokens = tokenize(toy_teacher.tokenizer, texts)
    full = toy_teacher.tokenizer(texts)
    assert can_trim(toy_teacher.model)
    assert tokens.shape[1] == int(full.argmax(dim=-1).max()) + 1
    with torch.no_grad():
        ours = encoder.encode_text(tokens)
        theirs = F.normalize(toy_teacher.model.encode_text(full), dim=-1)
    assert torch.allclose(ours, theirs, atol=2e-6)


def test_trimming_does_shorten(toy_teacher):
    assert tokenize(toy_teacher.tokenizer, ["cat"]).shape[1] == 3
    assert tokenize(toy_teacher.tokenizer, TEXTS["cut"]).shape[1] == 16


@pytest.mark.parametrize("kind", ["mixed", "grouped"])
def test_gradients_are_those_of_open_clip(toy_teacher, kind):
    encoder = PairEncoder(toy_teacher).train()
    model, texts = toy_teacher.model, TEXTS[kind]
    weight = torch.randn(len(texts), 64, generator=torch.Generator().manual_seed(0))
    grads = []
    for features in (
        encoder.encode_text(tokenize(toy_teacher.tokenizer, texts)),
        F.normalize(model.encode_text(toy_teacher.tokenizer(texts)), dim=-1),
    ):
        model.zero_grad()
        (features * weight).sum().backward()
        grads.append(model.token_embedding.weight.grad.clone())
    assert torch.allclose(*grads, atol=1e-5)


def test_images_and_scale(toy_teacher):
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        image, text, scale, bias = PairEncoder(toy_teacher).eval()(
            pixels, tokenize(toy_teacher.tokenizer, ["cat", "dog", "a"])
        )
        expected = F.normalize(toy_teacher.model.encode_image(pixels), dim=-1)
    assert torch.allclose(image, expected, atol=1e-6)
    assert (image.shape, text.shape) == ((3, 64), (3, 64))
    assert scale.item() == pytest.approx(1 / 0.07, rel=1e-5)  # open_clip's initial value
    assert bias.item() == 0


def build(kind, toy, **text):
    config = toy.config["model_cfg"]
    torch.manual_seed(0)
    model = kind(
        embed_dim=64,
        vision_cfg=config["vision_cfg"],
        text_cfg={**config["text_cfg"], **text},
    ).eval()
    return LoadedClip(model, toy.config, toy.preprocess, toy.tokenizer, "other")


def both_embeddings(clip):
    """The texts as training encodes them, and as open_clip does."""
    texts = TEXTS["mixed"]
    with torch.no_grad():
        ours = PairEncoder(clip).eval().encode_text(tokenize(clip.tokenizer, texts))
        theirs = F.normalize(clip.model.encode_text(clip.tokenizer(texts)), dim=-1)
    return ours, theirs


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (open_clip.CustomTextCLIP, {}),
        (open_clip.CLIP, {"no_causal_mask": True}),
        (open_clip.CLIP, {"pool_type": "last"}),
    ],
)
def test_other_text_towers_see_their_padding(toy_teacher, kind, text):
    clip = build(kind, toy_teacher, **text)
    assert not can_trim(clip.model)
    assert torch.allclose(*both_embeddings(clip), atol=1e-6)


def test_pooling_at_a_named_end_token(toy_teacher):
    end = int(toy_teacher.tokenizer(["cat"]).max())
    clip = build(open_clip.CLIP, toy_teacher, pool_type="eos", eos_id=end)
    assert can_trim(clip.model)
    assert torch.allclose(*both_embeddings(clip), atol=2e-6)


def test_remembered_tokens_are_those_of_the_tokenizer(toy_teacher):
    calls = []

    def tokenizer(texts):
        calls.extend(texts)
        return toy_teacher.tokenizer(texts)

    remembered = TokenMemory(tokenizer)
    for texts in (["a cat", "a dog", "a cat"], ["red", "a dog"], ["a cat"]):
        assert torch.equal(remembered(texts), toy_teacher.tokenizer(texts))
    assert calls == ["a cat", "a dog", "red"]
