"""Export towers against open_clip's own encoders, same weights."""

import copy
from types import SimpleNamespace

import open_clip
import pytest
import torch
from open_clip.model import CustomTextCLIP
from torch import nn

from tinyclip_edge.errors import ModelError
from tinyclip_export.towers.blocks import Attention
from tinyclip_export.towers.factory import image_tower, text_tower
from tinyclip_export.towers.vit import ImageTower, TextTower

TOLERANCE = 1e-5
EOT = 299


def vision(**extra):
    return {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "head_width": 32, **extra}


def text(**extra):
    sizes = {"context_length": 12, "vocab_size": 300, "width": 48, "heads": 3, "layers": 2}
    return {**sizes, **extra}


def build(vision_cfg=None, text_cfg=None, *, kind=open_clip.CLIP, **extra):
    """Random weights, with norms and biases moved off their trivial start."""
    torch.manual_seed(0)
    model = kind(32, vision_cfg or vision(), text_cfg or text(), **extra).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.requires_grad_(requires_grad=False)


def token_ids(*lengths, context=12):
    """Rows of words with the end of text at the given lengths, zeros behind."""
    ids = torch.zeros(len(lengths), context, dtype=torch.int64)
    for row, length in zip(ids, lengths, strict=True):
        row[0], row[length - 1] = EOT - 1, EOT
        row[1 : length - 1] = torch.randint(1, EOT - 1, (length - 2,))
    return ids


MODELS = {
    "gelu": {},
    "quick_gelu": {"quick_gelu": True},
    "layer scale": {
        "vision_cfg": vision(ls_init_value=0.3),
        "text_cfg": text(ls_init_value=0.3),
    },
    "mean pooling": {"vision_cfg": vision(pool_type="avg")},
    "norm after mean": {"vision_cfg": vision(pool_type="avg", final_ln_after_pool=True)},
    "no first norm": {"vision_cfg": vision(no_ln_pre=True)},
    "other mlp, biased projection": {
        "vision_cfg": vision(mlp_ratio=2.5),
        "text_cfg": text(mlp_ratio=3.0, proj_bias=True),
    },
    "end of text by id": {"text_cfg": text(pool_type="eos", eos_id=EOT)},
    "separate text tower": {"kind": CustomTextCLIP},
    "tanh gelu, other epsilon": {
        "vision_cfg": vision(act_kwargs={"approximate": "tanh"}, norm_kwargs={"eps": 1e-3}),
    },
    "one layer": {"vision_cfg": vision(layers=1), "text_cfg": text(layers=1)},
}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_towers_give_open_clips_features(options):
    model = build(**options)
    pixels, ids = torch.randn(3, 3, 32, 32), token_ids(3, 7, 12)
    image = ImageTower(model)(pixels) - model.encode_image(pixels, normalize=True)
    words = TextTower(model)(ids) - model.encode_text(ids, normalize=True)
    assert image.abs().max() < TOLERANCE
    assert words.abs().max() < TOLERANCE


@pytest.mark.parametrize("length", [2, 5, 11])
def test_short_text_gives_what_the_padded_one_gives(length):
    model = build()
    padded = token_ids(length)
    with_end = padded.clone()
    with_end[padded == 0] = EOT  # Hugging Face pads with the end token
    tower, expected = TextTower(model), model.encode_text(padded, normalize=True)
    for ids in (padded[:, :length], padded, with_end):
        assert (tower(ids) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize(("sharpness", "depth"), [(1.0, -60.0), (60.0, -10_000.0)])
def test_the_causal_mask_hides_the_highest_scores(sharpness, depth):
    """Later tokens that outdo all seen ones by more than 60 asked for a deeper mask."""
    model = build()
    width = model.positional_embedding.shape[1]
    with torch.no_grad():
        for block in model.transformer.resblocks:
            block.attn.in_proj_weight[: 2 * width] *= sharpness**0.5
            block.attn.in_proj_bias[: 2 * width] *= sharpness**0.5
    ids = token_ids(3, 7, 12)
    tower = TextTower(model)
    assert tower.mask.min() == depth
    assert (tower(ids) - model.encode_text(ids, normalize=True)).abs().max() < TOLERANCE


def test_padding_behind_the_end_of_a_vocabulary_with_spare_rows_stays_hidden():
    """The end rates the padding 60 above itself; its id is not the table's last."""
    model = build(text_cfg=text(layers=1))
    attention = model.transformer.resblocks[0].attn
    width = model.positional_embedding.shape[1]
    with torch.no_grad():
        model.positional_embedding[:] = 0
        for channel, token in enumerate((EOT - 8, 0)):
            model.token_embedding.weight[:, channel] = 0
            model.token_embedding.weight[token] = 0
            model.token_embedding.weight[token, channel] = 1
        attention.in_proj_bias[: 2 * width] = 0
        attention.in_proj_weight[: 2 * width] = 0
        attention.in_proj_weight[0, 0] = 7.0  # queries of the end
        attention.in_proj_weight[width, 1] = 7.0  # keys of the padding
    ids = token_ids(3, 7, 11)
    ids[ids == EOT] = EOT - 8
    ids[(ids > EOT - 8)] = 5
    assert TextTower(model, ids[0]).mask.min() == -10_000.0
    expected = model.encode_text(ids, normalize=True)
    assert (TextTower(model, ids[0])(ids) - expected).abs().max() < TOLERANCE


def test_an_end_of_text_without_a_token_is_refused():
    model = build(text_cfg=text(pool_type="eos", eos_id=5000))
    with pytest.raises(ModelError, match="eos_id 5000 has no token; there are 300"):
        TextTower(model)


def test_the_starter_teachers_texts():
    """Its first layer rates some tokens 85 above all that come before them."""
    from tinyclip_edge.models import load_clip

    clip = load_clip("starter-teacher")
    ids = clip.tokenizer(["a photo of a cat", "flat colour picture of a bicycle", "a", "red apple"])
    expected = clip.model.eval().encode_text(ids, normalize=True)
    assert (TextTower(clip.model)(ids) * expected).sum(1).min() > 0.999999


def test_towers_share_the_models_memory():
    model = build()
    image, words = ImageTower(model), TextTower(model)
    source = model.visual.transformer.resblocks[0].attn.in_proj_weight
    assert image.body[0].attention.q.weight.data_ptr() == source.data_ptr()
    assert words.tokens.weight.data_ptr() == model.token_embedding.weight.data_ptr()


def test_attention_with_a_head_cut_out_equals_one_whose_head_is_silent():
    torch.manual_seed(0)
    full = nn.MultiheadAttention(48, 3, batch_first=True).eval()
    nn.init.normal_(full.in_proj_bias)
    silenced = copy.deepcopy(full)
    channels = torch.tensor([*range(16), *range(32, 48)])
    rows = torch.cat([channels, channels + 48, channels + 96])
    with torch.no_grad():
        silenced.out_proj.weight[:, 16:32] = 0
    pruned = SimpleNamespace(
        in_proj_weight=full.in_proj_weight[rows],
        in_proj_bias=full.in_proj_bias[rows],
        out_proj=nn.Linear(32, 48),
        num_heads=2,
    )
    pruned.out_proj.weight = nn.Parameter(full.out_proj.weight[:, channels])
    pruned.out_proj.bias = full.out_proj.bias
    x = torch.randn(2, 5, 48)
    expected = silenced(x, x, x, need_weights=False)[0]
    assert (Attention(pruned)(x, x, None) - expected).abs().max() < TOLERANCE


def test_unknown_image_towers_are_refused_by_name():
    with pytest.raises(ModelError, match="block"):
        image_tower(build(vision_cfg=vision(qk_norm=True)))


def test_an_image_tower_of_another_library_is_refused_by_name():
    with pytest.raises(
        ModelError, match=r"image tower Flatten cannot be exported: .*are supported"
    ):
        image_tower(SimpleNamespace(visual=nn.Flatten()))


def test_a_text_tower_of_transformers_is_refused_by_name():
    text = SimpleNamespace(config=SimpleNamespace(model_type="roberta"))
    with pytest.raises(ModelError, match=r"text tower SimpleNamespace \(roberta\) cannot"):
        text_tower(SimpleNamespace(text=text))


def test_a_text_tower_without_pooling_is_refused():
    model = build(text_cfg=text(pool_type="none"), kind=CustomTextCLIP)
    with pytest.raises(ModelError, match="pool_type 'none'"):
        text_tower(model)
