from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import tinyclip_edge.starter
from tinyclip_edge.errors import ModelError
from tinyclip_edge.inherit import ClipShape, inherit_uniform, plan_uniform
from tinyclip_edge.models import ZOO, count_parameters, create_student, zoo_rows, zoo_table
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.build import build_model
from tinyclip_edge.models.library import open_clip


def on_meta(model_cfg):
    with torch.device("meta"):
        return build_model(model_cfg, "test")


# Published sizes: image tower, text tower with its token embedding.
PUBLISHED = {
    "TinyCLIP-ViT-39M-16-Text-19M": (38_587_392, 44_513_792),
    "TinyCLIP-ViT-8M-16-Text-3M": (8_276_992, 15_169_024),
    "TinyCLIP-ViT-61M-32-Text-29M": (61_411_200, 53_970_944),
    "TinyCLIP-ViT-40M-32-Text-19M": (39_691_776, 44_513_792),
}
RESNETS = {"TinyCLIP-ResNet-30M-Text-29M": 56, "TinyCLIP-ResNet-19M-Text-19M": 44}  # width
TEACHERS = {"16": "ViT-B-16", "32": "ViT-B-32"}


def test_published_table_is_complete():
    assert {n for n, e in ZOO.items() if e.kind == "published"} == {*PUBLISHED, *RESNETS}
    # From the published model table.
    top1 = {n: ZOO[n].imagenet_top1 for n in (*PUBLISHED, *RESNETS)}
    assert list(top1.values()) == [63.5, 41.1, 62.4, 59.8, 59.1, 56.4]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_to_the_unit(name):
    image, text = PUBLISHED[name]
    count = count_parameters(on_meta(ZOO[name].model_cfg))
    assert count.image == image
    assert count.logit_scale == 1
    assert count.text + count.token_embedding == text


def resnet_parameters(w, embed=1024, blocks=(3, 4, 6, 3), positions=50):
    """CLIP's ResNet by hand: stem, bottlenecks (expansion 4), attention pool."""
    total = 27 * w // 2 + w + 9 * (w // 2) ** 2 + w + 9 * w * w // 2 + 2 * w
    inputs = w
    for stage, count in enumerate(blocks):
        p = w * 2**stage
        total += inputs * 4 * p + 8 * p  # shortcut of the first block
        for _ in range(count):
            total += inputs * p + 2 * p + 9 * p * p + 2 * p + 4 * p * p + 8 * p
            inputs = 4 * p
    pool = 32 * w
    return total + positions * pool + 3 * (pool * pool + pool) + pool * embed + embed


@pytest.mark.parametrize("name", RESNETS)
def test_resnet_sizes(name):
    assert resnet_parameters(64) == 38_316_896  # OpenAI's RN50
    model = on_meta(ZOO[name].model_cfg)
    assert count_parameters(model).image == resnet_parameters(RESNETS[name])
    if "19M" in name:
        # The published size counts the running statistics of its batch norms too.
        state = sum(t.numel() for t in model.visual.state_dict().values())
        assert state == 18_633_429


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_students_inherit_every_tensor_from_their_teacher(name):
    arch = TEACHERS["16" if "-16-" in name else "32"]
    teacher = on_meta(open_clip.get_model_config(arch)).state_dict()
    student = on_meta(ZOO[name].model_cfg).state_dict()
    plan = plan_uniform(ClipShape.of(teacher), ClipShape.of(student))
    weights, report = inherit_uniform(teacher, student, plan)
    assert report.inherited_parameters == sum(PUBLISHED[name])
    assert {k: t.shape for k, t in weights.items()} == {k: t.shape for k, t in student.items()}


def test_vit_b16_image_tower_has_the_published_size():
    count = count_parameters(on_meta(open_clip.get_model_config("ViT-B-16")))
    assert count.image == 86_192_640


def transformer(width, layers):
    """Weights and biases of q, k, v, out, two feed-forward maps, two norms."""
    return layers * (12 * width**2 + 13 * width)


def starter_towers(image, text, embed=256, patch=16, positions=17, context=16):
    (w, layers), (t, text_layers) = image, text
    vision = 3 * patch**2 * w + w + positions * w + 4 * w + w * embed + transformer(w, layers)
    return vision, context * t + 2 * t + t * embed + transformer(t, text_layers)


def starter_teacher_cfg(vocabulary):
    return {
        "embed_dim": 256,
        "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 256, "layers": 6},
        "text_cfg": {
            "context_length": 16,
            "vocab_size": vocabulary,
            "width": 256,
            "heads": 4,
            "layers": 3,
        },
    }


@pytest.mark.parametrize(
    ("name", "image", "text", "millions"),
    [("starter-50", (256, 3), (256, 1), 3.50), ("starter-15", (128, 3), (128, 2), 1.16)],
)
def test_starter_students_take_the_rest_from_their_teacher(
    toy_tokenizer_file, toy_teacher, name, image, text, millions
):
    vocabulary = toy_teacher.config["model_cfg"]["text_cfg"]["vocab_size"]
    with torch.device("meta"):
        teacher = assemble(
            starter_teacher_cfg(vocabulary),
            None,
            name="starter-like",
            tokenizer_file=toy_tokenizer_file,
        )
        student = create_student(name, teacher)
    count = count_parameters(student.model)
    assert (count.image, count.text) == starter_towers(image, text)
    assert count.encoders / 1e6 == pytest.approx(millions, abs=0.005)
    assert count.token_embedding == vocabulary * text[0]
    config = student.config["model_cfg"]
    assert config["text_cfg"]["heads"] == text[0] // 64
    assert (student.image_size, student.context_length, student.embedding_dim) == (64, 16, 256)
    assert count_parameters(teacher.model).encoders / 1e6 == pytest.approx(7.45, abs=0.005)


# The published model table: GMAC of one pair.
GMACS = {
    "TinyCLIP-ViT-39M-16-Text-19M": 9.5,
    "TinyCLIP-ViT-8M-16-Text-3M": 2.0,
    "TinyCLIP-ViT-61M-32-Text-29M": 5.3,
    "TinyCLIP-ViT-40M-32-Text-19M": 3.5,
    "TinyCLIP-ResNet-30M-Text-29M": 6.9,
    "TinyCLIP-ResNet-19M-Text-19M": 4.4,
}


def test_rows_and_table(monkeypatch, tmp_path):
    monkeypatch.setattr(tinyclip_edge.starter, "teacher_path", lambda: tmp_path)
    with pytest.raises(ModelError, match=r"open_clip_config\.json"):
        zoo_rows()
    config = {"model_cfg": starter_teacher_cfg(7038)}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    rows = {row["name"]: row for row in json.loads(json.dumps(zoo_rows()))}
    assert set(rows) == set(ZOO)
    for name, gmac in GMACS.items():
        macs = rows[name]["image_macs"] + rows[name]["text_macs"]
        assert macs / 1e9 == pytest.approx(gmac, abs=0.05), name
    small = rows["starter-15"]
    assert (small["image_parameters"], small["text_parameters"]) == starter_towers(
        (128, 3), (128, 2)
    )
    assert small["token_parameters"] == 7038 * 128
    assert small["imagenet_top1"] is None
    table = zoo_table()
    assert list(table.columns[0].cells) == list(ZOO)
    assert list(table.columns[5].cells)[2:4] == ["63.5", "41.1"]


def test_zoo_needs_no_torch():
    code = (
        "import sys; import tinyclip_edge.models.zoo; from tinyclip_edge.models import ZOO;"
        "assert 'torch' not in sys.modules and 'open_clip' not in sys.modules; print(len(ZOO))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(ZOO)
