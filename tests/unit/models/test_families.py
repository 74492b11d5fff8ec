"""Inheritance between small siblings of today's families."""

from __future__ import annotations

import pytest
import torch

from families import ENCODERS, EVERY, families, family
from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.inheritance import ClipShape
from tinyclip_edge.inheritance.importance import Blocks, only_layers
from tinyclip_edge.models import create_student, inherit_student, load_clip, save_local_dir
from tinyclip_edge.models.head_widths import head_widths

SHAPES = {
    "vision_cfg": {"width": 32, "layers": 2},
    "text_cfg": {"width": 32, "layers": 2, "heads": 2},
}
HALVES = {
    "PE-Core": {**SHAPES, "vision_cfg": {"width": 96, "layers": 2}},
    "MobileCLIP 2": {**SHAPES, "vision_cfg": {"width": 8, "layers": [1, 1, 2, 1]}},
    "MobileCLIP 2, five stages": {**SHAPES, "vision_cfg": {"width": 4, "layers": [1, 1, 2, 1, 1]}},
    # timm builds its stem for one width only
    "MobileCLIP-B": {**SHAPES, "vision_cfg": {"layers": 2, "mlp_ratio": 0.25}},
}
# Blocks of each stage of a student, and those of its teacher that they are.
DEPTHS = {
    "MobileCLIP 2": ([1, 1, 2, 1], ((0,), (0,), (0, 2), (0,))),
    "MobileCLIP 2, five stages": ([1, 1, 2, 1, 1], ((0,), (0,), (0, 2), (0,), (0,))),
}
# Half of the neurons of each image tower, where it is not 2 to a channel.
HALF_NEURONS = {
    "EVA02": 85 / 64, "MobileCLIP 2": 1.5, "MobileCLIP-B": 0.25, "ViTamin": 1.0,
}  # fmt: skip

VISION, TEXT = "visual.transformer.resblocks.", "transformer.resblocks."
TRUNK = "visual.trunk.blocks."
ENCODER_WRITERS = {
    "mt5": ("text.transformer.block.", "layer.1.DenseReluDense.wo.weight"),
    "m2m_100": ("text.transformer.layers.", "fc2.weight"),
}


def writers(name):
    """Keys of the weights that read the neurons of each block."""
    vision, text = EVERY[name]["vision_cfg"], EVERY[name]["text_cfg"]
    timm = "timm_model_name" in vision
    end = "mlp.w2.weight" if name == "ViTamin" else "mlp.fc2.weight"
    pairs = [(TRUNK, end) if timm else (VISION, "mlp.c_proj.weight")]
    if name in ENCODERS:
        usual = ("text.transformer.encoder.layer.", "output.dense.weight")
        pairs.append(ENCODER_WRITERS.get(text["hf_config"]["model_type"], usual))
    else:
        pairs.append((f"text.{TEXT}" if timm else TEXT, "mlp.c_proj.weight"))
    keys = [f"{blocks}{layer}.{writer}" for blocks, writer in pairs for layer in range(4)]
    if isinstance(vision["layers"], list):
        keys = keys[4:] + [
            f"visual.trunk.stages.{stage}.blocks.{block}.{end}"
            for stage, count in enumerate(vision["layers"])
            for block in range(count)
        ]
    return keys


@pytest.fixture(params=families(EVERY))
def name(request):
    return request.param


def inputs(clip):
    generator = torch.Generator().manual_seed(3)
    size = clip.image_size
    pixels = torch.randn(4, 3, size, size, generator=generator)
    ids = torch.randint(1, clip.vocabulary, (4, clip.context_length), generator=generator)
    return pixels, ids


@torch.no_grad()
def features(clip):
    pixels, ids = inputs(clip)
    return clip.model.encode_image(pixels), clip.model.encode_text(ids)


def test_a_student_of_the_same_shape_is_the_teacher(name):
    teacher, student = family(name), family(name, seed=1)
    report = inherit_student(teacher, student)
    assert {t.key for t in report.tensors} == set(student.model.state_dict())
    assert {t.origin for t in report.tensors if t.tower != "shared"} == {"copied"}
    for ours, theirs in zip(features(student), features(teacher), strict=True):
        assert torch.equal(ours, theirs)


def test_half_the_depth_keeps_blocks_bit_for_bit(name):
    teacher = family(name)
    blocks, layers = DEPTHS.get(name, (2, (0, 2)))
    shape = {"vision_cfg": {"layers": blocks}, "text_cfg": {"layers": 2}}
    student = create_student(shape, teacher)
    report = inherit_student(teacher, student)
    assert (report.image.layers, report.text.layers) == (layers, (0, 2))
    state, origin = student.model.state_dict(), teacher.model.state_dict()
    for tensor in report.tensors:
        if tensor.tower != "shared":
            assert tensor.origin == "copied"
            assert torch.equal(state[tensor.key], origin[tensor.teacher_key])


def front(value, shape, key):
    """The first units of each axis; rows of qkv and kv are taken from each of their parts."""
    value = value.numpy()
    for axis, size in enumerate(shape):
        full = value.shape[axis]
        if full == size:
            continue
        parts = {"qkv": 3, "in_proj": 3, ".kv.": 2}
        stacked = next((n for mark, n in parts.items() if mark in key), 1)
        if axis == 0 and stacked > 1:
            split = value.reshape(stacked, full // stacked, *value.shape[1:])
            value = split[:, : size // stacked].reshape(size, *value.shape[1:])
        else:
            value = value.take(range(size), axis)
    return value


def narrow(name, teacher):
    return create_student(HALVES.get(name, SHAPES), teacher)


def test_half_the_width_takes_the_first_units_of_each_axis(name):
    teacher = family(name)
    student = narrow(name, teacher)
    report = inherit_student(teacher, student, plan="evenly")
    state, origin = student.model.state_dict(), teacher.model.state_dict()
    assert {t.key for t in report.tensors} == set(state)
    for tensor in report.tensors:
        if tensor.origin == "sliced":
            expected = front(origin[tensor.teacher_key], state[tensor.key].shape, tensor.key)
            assert (state[tensor.key].numpy() == expected).all(), tensor.key
    assert {t.origin for t in report.tensors if t.tower == "image"} <= {"copied", "sliced"}
    assert all(bool(f.isfinite().all()) for f in features(student))


def test_a_narrower_student_is_saved_and_loaded(name, tmp_path):
    student = narrow(name, family(name))
    save_local_dir(tmp_path / "student", student)
    loaded = load_clip(str(tmp_path / "student"))
    for ours, theirs in zip(features(loaded), features(student), strict=True):
        assert torch.equal(ours, theirs)
    own_form = (tmp_path / "student" / "tinyclip_edge_config.json").exists()
    config = EVERY[name]
    sized = "timm_model_name" in config["vision_cfg"] or "hf_config" in config["text_cfg"]
    assert own_form == sized


def test_a_siglip_student_embeds_in_its_channels():
    teacher = family("SigLIP 2")
    assert narrow("SigLIP 2", teacher).embedding_dim == 32
    with pytest.raises(ModelError, match=r"width 32 must be the embedding's 48; set embed_dim"):
        create_student({**SHAPES, "embed_dim": 48}, teacher)


def test_other_timm_blocks_are_refused():
    teacher = family("SigLIP 2", vision_cfg={"timm_proj": "linear"})
    student = family(
        "SigLIP 2",
        vision_cfg={"timm_model_name": "vit_base_patch16_siglip_gap_224", "timm_pool": "avg",
                    "timm_proj": "linear"},
    )  # fmt: skip
    with pytest.raises(InheritanceError, match="pool"):
        inherit_student(teacher, student)


def test_importance_finds_the_units_that_do_something(name):
    """Neurons that write nothing are left behind."""
    teacher = family(name)
    state = teacher.model.state_dict()
    generator = torch.Generator().manual_seed(4)
    useful = {}
    keys = writers(name)
    if name == "SigLIP 2":  # timm gives the pool's neurons the ratio of the blocks
        keys.append("visual.trunk.attn_pool.mlp.fc2.weight")
    for key in keys:
        order = torch.randperm(state[key].shape[1], generator=generator)
        useful[key] = order[: len(order) // 2].sort()[0]
        state[key][:, order[len(order) // 2 :]] = 0
    vision = {"mlp_ratio": HALF_NEURONS.get(name, 2.0)}
    text = {"mlp_ratio": 1.0 if name in ENCODERS else 2.0}
    student = create_student({"vision_cfg": vision, "text_cfg": text}, teacher)
    inherit_student(teacher, student, plan="importance", calibration=inputs(teacher))
    ours = student.model.state_dict()
    for key, neurons in useful.items():
        # Neurons of NLLB's ReLU that are 0 on these texts do as little.
        if name != "NLLB" or not key.startswith("text."):
            assert torch.equal(ours[key], state[key][:, neurons]), key
    # EVA02 normalises its neurons, those that write nothing too, so that its features move.
    for image, text in [zip(features(student), features(teacher), strict=True)]:
        if name != "EVA02":
            torch.testing.assert_close(*image, atol=1e-5, rtol=0)
        torch.testing.assert_close(*text, atol=1e-5, rtol=0)


def test_importance_of_a_narrower_student(name):
    teacher = family(name)
    student = narrow(name, teacher)
    report = inherit_student(teacher, student, plan="importance", calibration=inputs(teacher))
    assert {t.origin for t in report.tensors if t.tower != "shared"} <= {"copied", "sliced"}
    assert report.taken is not None
    if name == "SigLIP 2":  # the image tower's channels are the embedding
        assert report.taken.embedding == report.taken.image.shared["channels"]
    assert all(bool(f.isfinite().all()) for f in features(student))


def test_importance_measures_layers_with_the_positions_that_all_share():
    """T5's first layer has them; a choice without it runs like the student that inherits it."""
    teacher = family("mT5")
    student = create_student({"text_cfg": {"layers": 2}}, teacher)
    shape = ClipShape.of(teacher.model.state_dict(), head_widths(teacher)).text
    calibration = inputs(teacher)
    with torch.no_grad(), only_layers(Blocks.of(teacher.model, shape), [(1, 3)]):
        expected = teacher.model.encode_text(calibration[1])
    before = features(teacher)[1]
    state, origin = student.model.state_dict(), teacher.model.state_dict()
    shared = "layer.0.SelfAttention.relative_attention_bias.weight"
    for key in state:
        source = key
        for ours, theirs in ((0, 1), (1, 3)):
            block = f"text.transformer.block.{ours}."
            if key.startswith(block) and not key.endswith(shared):
                source = key.replace(block, f"text.transformer.block.{theirs}.")
        if key.startswith("text."):
            state[key].copy_(origin[source])
    assert torch.equal(features(student)[1], expected)
    assert torch.equal(features(teacher)[1], before)
