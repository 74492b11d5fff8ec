"""A teacher whose useful parts are known by construction: importance must find exactly these."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance import ClipShape
from tinyclip_edge.inheritance.gates import ClipMasks, TowerMasks
from tinyclip_edge.models import create_student, inherit_student
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.importance import importance_plan
from tinyclip_edge.models.pruned import prune_clip

IMAGE, TEXT = "visual.transformer.resblocks.", "transformer.resblocks."
LAYERS = {IMAGE: 4, TEXT: 3}
CAPTIONS = (
    "a photo of a cat", "red square", "blue circle", "the dog", "a red bicycle", "blue", "cat",
    "a photo of the blue square",
)  # fmt: skip


def calibration_of(teacher, count=8):
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randn(count, 3, 32, 32, generator=generator)
    return pixels, teacher.tokenizer([CAPTIONS[i % len(CAPTIONS)] for i in range(count)])


@pytest.fixture
def calibration(toy_teacher):
    return calibration_of(toy_teacher)


def plan_for(teacher, student, calibration):
    shapes = (ClipShape.of(clip.model.state_dict()) for clip in (teacher, student))
    return importance_plan(teacher, tuple(shapes), calibration)


def some(count, of, seed):
    order = torch.randperm(of, generator=torch.Generator().manual_seed(seed))
    return tuple(sorted(order[:count].tolist()))


def others(units, of):
    return [i for i in range(of) if i not in units]


@torch.no_grad()
def features(clip, calibration):
    pixels, ids = calibration
    return (
        F.normalize(clip.model.encode_image(pixels), dim=-1),
        F.normalize(clip.model.encode_text(ids), dim=-1),
    )


def test_neurons_that_write_nothing_are_dropped(toy_teacher, calibration):
    state = toy_teacher.model.state_dict()
    useful = {
        (blocks, layer): some(128, 512, seed=layer)
        for blocks, count in LAYERS.items()
        for layer in range(count)
    }
    for (blocks, layer), neurons in useful.items():
        state[f"{blocks}{layer}.mlp.c_proj.weight"][:, others(neurons, 512)] = 0
    student = create_student(
        {"vision_cfg": {"mlp_ratio": 1.0}, "text_cfg": {"mlp_ratio": 1.0}}, toy_teacher
    )
    plan = plan_for(toy_teacher, student, calibration)
    assert plan.image.neurons == tuple(useful[IMAGE, layer] for layer in range(4))
    assert plan.text.neurons == tuple(useful[TEXT, layer] for layer in range(3))
    report = inherit_student(toy_teacher, student, plan="importance", calibration=calibration)
    assert report.method == "uniform, by importance"
    for ours, theirs in zip(
        features(student, calibration), features(toy_teacher, calibration), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_layers_that_do_nothing_are_dropped(toy_teacher, calibration):
    """The fixed choices are 0, 2 and 0, 3 (image), 0, 1 and 0, 2 (text): all wrong here."""
    state = toy_teacher.model.state_dict()
    for block in (f"{IMAGE}0.", f"{IMAGE}3.", f"{TEXT}0."):
        for name in ("attn.out_proj", "mlp.c_proj"):
            state[f"{block}{name}.weight"].zero_()
            state[f"{block}{name}.bias"].zero_()
    student = create_student({"vision_cfg": {"layers": 2}, "text_cfg": {"layers": 2}}, toy_teacher)
    report = inherit_student(toy_teacher, student, plan="importance", calibration=calibration)
    assert report.image.layers == (1, 2)
    assert report.text.layers == (1, 2)
    for ours, theirs in zip(
        features(student, calibration), features(toy_teacher, calibration), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def silence_channels(state, tower, dead):
    """Let nothing write the channels and nothing read them."""
    blocks = IMAGE if tower == "image" else TEXT
    if tower == "image":
        for name in ("visual.ln_pre.weight", "visual.ln_pre.bias"):
            state[name][dead] = 0
    else:
        state["token_embedding.weight"][:, dead] = 0
        state["positional_embedding"][:, dead] = 0
    for layer in range(LAYERS[blocks]):
        for name in ("attn.out_proj", "mlp.c_proj"):
            state[f"{blocks}{layer}.{name}.weight"][dead] = 0
            state[f"{blocks}{layer}.{name}.bias"][dead] = 0
        for name in ("attn.in_proj_weight", "mlp.c_fc.weight"):
            state[f"{blocks}{layer}.{name}"][:, dead] = 0
    state["visual.proj" if tower == "image" else "text_projection"][dead] = 0


def test_dead_channels_and_heads_are_dropped(toy_teacher, calibration):
    state = toy_teacher.model.state_dict()
    channels = {"image": some(64, 128, seed=7), "text": some(64, 128, seed=8)}
    for tower, units in channels.items():
        silence_channels(state, tower, others(units, 128))
    heads = {IMAGE: (1, 0, 1, 1), TEXT: (0, 1, 1)}  # of two, the one that is heard, layer by layer
    for blocks, heard in heads.items():
        for layer, head in enumerate(heard):
            dead = slice(64 - 64 * head, 128 - 64 * head)
            state[f"{blocks}{layer}.attn.out_proj.weight"][:, dead] = 0
    student = create_student({"vision_cfg": {"width": 64}, "text_cfg": {"width": 64}}, toy_teacher)
    plan = plan_for(toy_teacher, student, calibration)
    for part, tower, blocks in ((plan.image, "image", IMAGE), (plan.text, "text", TEXT)):
        assert part.channels == channels[tower]
        assert part.heads == tuple((head,) for head in heads[blocks])


def test_dead_embedding_dimensions_are_dropped(toy_teacher, calibration):
    dimensions = some(32, 64, seed=9)
    state = toy_teacher.model.state_dict()
    for name in ("visual.proj", "text_projection"):
        state[name][:, others(dimensions, 64)] = 0
    student = create_student({"embed_dim": 32}, toy_teacher)
    assert plan_for(toy_teacher, student, calibration).embed == dimensions
    inherit_student(toy_teacher, student, plan="importance", calibration=calibration)
    for ours, theirs in zip(
        features(student, calibration), features(toy_teacher, calibration), strict=True
    ):
        torch.testing.assert_close(ours, theirs[:, list(dimensions)], atol=1e-5, rtol=0)


def test_same_pairs_same_plan_and_nothing_else_moves(toy_teacher, calibration):
    config = {
        "vision_cfg": {"width": 64, "layers": 3, "mlp_ratio": 2.0},
        "text_cfg": {"width": 64, "layers": 2, "mlp_ratio": 2.0},
    }
    student = create_student(config, toy_teacher)
    before = {k: v.clone() for k, v in toy_teacher.model.state_dict().items()}
    expected = [p.requires_grad for p in toy_teacher.model.parameters()]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = plan_for(toy_teacher, student, calibration)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    toy_teacher.model.requires_grad_(False)
    with torch.no_grad():
        assert plan_for(toy_teacher, student, calibration) == first
    toy_teacher.model.requires_grad_(True)
    assert [p.requires_grad for p in toy_teacher.model.parameters()] == expected
    after = toy_teacher.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)
    for part in (first.image, first.text):
        for indices in (part.channels, *part.heads, *part.neurons):
            assert list(indices) == sorted(set(indices))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, i: None, "needs calibration pairs"),
        (lambda p, i: (p[:1], i[:1]), "at least 2 calibration pairs, not 1; raise inherit.cal"),
        (lambda p, i: (p, i[:5]), "8 pictures and 5 captions"),
        (lambda p, i: (p[..., :16], i), r"\[3, 32, 16\], toy-teacher takes \[3, 32, 32\]"),
        (lambda p, i: (p, F.pad(i, (0, 4))), "20 tokens, toy-teacher takes 16"),
        (lambda p, i: (p * torch.nan, i), "not finite"),
    ],
)
def test_unusable_calibration_is_one_line(toy_teacher, calibration, change, message):
    student = create_student({"vision_cfg": {"mlp_ratio": 1.0}}, toy_teacher)
    with pytest.raises(InheritanceError, match=message) as caught:
        inherit_student(toy_teacher, student, plan="importance", calibration=change(*calibration))
    assert "\n" not in str(caught.value)


def test_captions_may_be_cut_behind_the_longest(toy_teacher, calibration):
    pixels, ids = calibration
    student = create_student({"text_cfg": {"mlp_ratio": 1.0}}, toy_teacher)
    length = int(ids.ne(0).any(dim=0).sum())
    assert length < ids.shape[1]
    full = plan_for(toy_teacher, student, (pixels, ids))
    assert plan_for(toy_teacher, student, (pixels, ids[:, :length])) == full


def test_an_attention_pool_of_open_clip_is_refused_by_name(toy_teacher, calibration):
    model_cfg = toy_teacher.config["model_cfg"]
    vision = {**model_cfg["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 1}
    config = {**model_cfg, "vision_cfg": vision}
    coca = assemble(config, None, name="CoCa", tokenizer_file=toy_teacher.tokenizer_file)
    student = create_student({"vision_cfg": {"layers": 1}}, coca)
    with pytest.raises(InheritanceError, match="in CoCa's ViT with an attention pool; set"):
        inherit_student(coca, student, plan="importance", calibration=calibration)


def test_unknown_plan(toy_teacher):
    student = create_student({}, toy_teacher)
    with pytest.raises(InheritanceError, match=r"unknown .* 'evnly'; did you mean 'evenly'"):
        inherit_student(toy_teacher, student, plan="evnly")


@pytest.mark.parametrize("plan", ["published", "importance"])
def test_a_pruned_teacher_is_refused_by_name(toy_teacher, calibration, plan):
    image, text = (
        TowerMasks(torch.ones(128), torch.ones(layers, 2), torch.ones(layers, 512))
        for layers in (4, 3)
    )
    image.neurons[0, :200] = 0
    pruned = prune_clip(toy_teacher, ClipMasks(image, text)).clip
    student = create_student({"vision_cfg": {"mlp_ratio": 1.0}}, toy_teacher)
    with pytest.raises(InheritanceError, match="is pruned and its layers differ in size"):
        inherit_student(pruned, student, plan=plan, calibration=calibration)
