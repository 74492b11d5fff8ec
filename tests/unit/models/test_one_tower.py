"""Students of which one tower is inherited, the other fresh or the teacher's own."""

from __future__ import annotations

import pytest
import torch

from families import families, family
from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.models import create_student, inherit_student, load_clip, save_local_dir

PAIRS = ("ViT", "SigLIP 2", "XLM-R", "mT5", "NLLB", "PE-Core", "EVA02", "AltCLIP", "ChineseCLIP")
QUICK = ("SigLIP 2", "XLM-R")
HALF = {"width": 32, "layers": 2}
IMAGE = {"PE-Core": {"width": 96, "layers": 2}, "SigLIP 2": {"layers": 2}}
OTHER = {"image": "text", "text": "image"}


@pytest.fixture(params=families(PAIRS, QUICK))
def name(request):
    return request.param


def inputs(clip):
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(4, 3, clip.image_size, clip.image_size, generator=generator)
    return pixels, clip.tokenizer(["a red bicycle", "the cat", "a photo of a house", "rain"])


@torch.no_grad()
def features(clip, tower):
    pixels, ids = inputs(clip)
    return clip.model.encode_image(pixels) if tower == "image" else clip.model.encode_text(ids)


def origins(report, tower):
    return {tensor.origin for tensor in report.tensors if tensor.tower == tower}


def shape(name, tower):
    if tower == "image":
        return {"vision_cfg": IMAGE.get(name, HALF)}
    return {"text_cfg": {**HALF, "heads": 2}}


@pytest.mark.parametrize("plan", ["published", "importance"])
@pytest.mark.parametrize("shrunk", ["image", "text"])
def test_one_tower_shrinks_beside_a_frozen_one(name, shrunk, plan, tmp_path):
    teacher, whole = family(name), OTHER[shrunk]
    student = create_student(shape(name, shrunk), teacher, frozen=[whole])
    modes = {whole: "frozen"}
    report = inherit_student(teacher, student, plan=plan, calibration=inputs(teacher), modes=modes)
    assert {t.key for t in report.tensors} == set(student.model.state_dict())
    assert origins(report, whole) == {"frozen"}
    assert origins(report, shrunk) <= {"copied", "sliced"}
    assert torch.equal(features(student, whole), features(teacher, whole))
    assert report.frozen_parameters == getattr(report, whole).total > 0
    save_local_dir(tmp_path / "student", student)
    loaded = load_clip(str(tmp_path / "student"))
    for tower in ("image", "text"):
        assert torch.equal(features(loaded, tower), features(student, tower))


@pytest.mark.parametrize("inherited", ["image", "text"])
def test_one_tower_is_inherited_beside_a_fresh_one(name, inherited):
    teacher, fresh = family(name), OTHER[inherited]
    student = create_student(shape(name, inherited), teacher)
    before = {key: tensor.clone() for key, tensor in student.model.state_dict().items()}
    report = inherit_student(teacher, student, modes={fresh: "fresh"})
    assert origins(report, fresh) == {"fresh"}
    assert origins(report, inherited) <= {"copied", "sliced"}
    after = student.model.state_dict()
    for tensor in report.tensors:
        if tensor.tower == fresh:
            assert torch.equal(after[tensor.key], before[tensor.key])


def test_a_frozen_tower_of_any_kind_beside_an_inherited_one():
    """A kind without rules of inheritance is taken whole."""
    vision = {"image_size": 32, "timm_model_name": "resnet10t", "timm_proj": "linear"}
    teacher = family("XLM-R")
    config = {**teacher.config["model_cfg"], "vision_cfg": vision}
    convolutions = assembled(config, teacher)
    student = create_student(shape("XLM-R", "text"), convolutions, frozen=["image"])
    with pytest.raises(InheritanceError, match="taken whole with inherit"):
        inherit_student(convolutions, student)
    report = inherit_student(convolutions, student, modes={"image": "frozen"})
    assert origins(report, "image") == {"frozen"}
    assert torch.equal(features(student, "image"), features(convolutions, "image"))


def assembled(config, origin):
    from tinyclip_edge.models.assemble import assemble

    torch.manual_seed(0)
    return assemble(config, None, name="other", tokenizer_file=origin.tokenizer_file)


@pytest.mark.parametrize(
    ("model", "frozen", "line"),
    [
        (shape("ViT", "text"), "text", "text_cfg is given, but inherit.text=frozen takes"),
        (shape("ViT", "image"), "image", "vision_cfg is given, but inherit.image=frozen takes"),
        ({"embed_dim": 32}, "text", "embed_dim 32 is not the 48 of the frozen text tower"),
        ("TinyCLIP-ViT-8M-16-Text-3M", "text", "text_cfg is given"),
    ],
)
def test_settings_that_a_frozen_tower_has_already(model, frozen, line):
    with pytest.raises(ModelError) as error:
        create_student(model, family("ViT"), frozen=[frozen])
    assert line in str(error.value) and "\n" not in str(error.value)


def test_a_narrower_tower_without_projection_beside_a_frozen_one():
    with pytest.raises(ModelError, match="embed_dim 32 is not the 64 of the frozen text tower"):
        create_student({"vision_cfg": HALF}, family("SigLIP 2"), frozen=["text"])


def test_a_frozen_tower_of_other_sizes_is_refused():
    teacher = family("ViT")
    student = create_student(shape("ViT", "text"), teacher)
    with pytest.raises(InheritanceError, match="leave the tower's settings out"):
        inherit_student(teacher, student, modes={"text": "frozen"})


@pytest.mark.parametrize("name", families(["ViT", "XLM-R", "mT5", "NLLB"], QUICK))
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ({"mlp_ratio": 8.0}, "text tower: neurons"),
        ({"layers": 5}, "text tower: layers 5 is more than the teacher's 4"),
        ({"heads": 4, "width": 64}, "text tower: "),
    ],
)
def test_a_student_wider_in_one_axis_only(name, text, line):
    teacher = family(name)
    student = create_student({"text_cfg": text}, teacher)
    with pytest.raises(InheritanceError) as error:
        inherit_student(teacher, student)
    assert line in str(error.value) and "\n" not in str(error.value)
