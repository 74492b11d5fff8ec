"""Distillation on pictures and texts that do not belong together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pair_shards import toy_samples
from tinyclip_edge.config import make_config
from tinyclip_edge.data import Batch, open_source
from tinyclip_edge.errors import ConfigError, TinyClipError
from tinyclip_edge.models import create_student, load_clip, weights_hash
from tinyclip_edge.train import distill
from tinyclip_edge.train.caching import cache_features
from tinyclip_edge.train.feature_cache.progress import ProgressLines
from tinyclip_edge.train.tasks.distill_task import DistillTask, TaskContext
from tinyclip_edge.train.tasks.encoders import pixel_codec
from tinyclip_edge.train.tasks.teacher import Teacher
from toy_runs import STUDENT, KilledError, Watcher, kill, losses

pytestmark = pytest.mark.usefixtures("no_report")

PICTURES_ALONE = {"texts": None}
FEATURE_LOSS = {"affinity": 0.0, "feature": 1.0}


@pytest.fixture
def texts(tmp_path):
    lines = sorted(
        {line for _, files in toy_samples() for line in files["txt"].decode().split("\n")}
    )
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def unpaired(make, shards, texts):
    """The configuration of a run on the pictures of the shards and the texts of the file."""

    def config(*, loss=None, inherit=None, steps=6, lr=1e-3, **data):
        images = str(shards / "train-*.tar*")
        unpaired_data = {"train": None, "val": None, "images": images, "texts": texts, **data}
        return make(
            data=unpaired_data,
            loss=loss or {},
            optim={"steps": steps, "lr": lr},
            run={"save_every": 2},
            **({} if inherit is None else {"inherit": inherit, "student": IMAGE_STUDENT}),
        )

    return config


IMAGE_STUDENT = {"model": {"vision_cfg": {"width": 64, "layers": 3}}}


def affinity(student, teacher, scale):
    """The paper's loss: each row's cross entropy, by hand."""
    (image, text), (teacher_image, teacher_text) = student, teacher
    directions = (
        (image @ text.T, teacher_image @ teacher_text.T),
        (text @ image.T, teacher_text @ teacher_image.T),
    )
    total = 0.0
    for ours, theirs in directions:
        for row, target in zip(scale * ours, scale * theirs, strict=True):
            shares = target.exp() / target.exp().sum()
            total -= 0.5 * float((shares * (row - row.exp().sum().log())).sum()) / len(ours)
    return total


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_the_loss_of_pictures_and_texts_of_their_own_is_the_papers(
    unpaired, toy_teacher_folder, micro_batch
):
    clip = load_clip(str(toy_teacher_folder))
    teacher = Teacher(clip, pixel_codec(clip), device=torch.device("cpu"))
    torch.manual_seed(0)
    student = create_student(STUDENT, clip)
    loss = unpaired().loss.model_copy(update={"teacher_logit_scale": 20.0})
    context = TaskContext(teacher, pixel_codec(clip), loss, torch.device("cpu"), micro_batch)
    task = DistillTask(student, context)
    pixels = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    captions = ("a cat", "a dog", "red", "blue", "a photo", "circle", "square")
    terms = task.terms(Batch(tuple("abcdefg"), pixels, captions))
    with torch.no_grad():
        student.model.eval()
        shown, ids = pixel_codec(clip).restore(pixels, student.image_size), clip.tokenizer(captions)
        features = [
            [
                torch.nn.functional.normalize(tower, dim=-1).double()
                for tower in (model.encode_image(shown), model.encode_text(ids))
            ]
            for model in (student.model, clip.model)
        ]
    assert terms.loss.item() == pytest.approx(affinity(*features, 20.0), rel=1e-5)
    other = (*captions[1:], captions[0])  # another order of the texts is the same batch
    shuffled = task.terms(Batch(tuple("abcdefg"), pixels, other))
    assert shuffled.loss.item() == pytest.approx(terms.loss.item(), rel=1e-5)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"memory_gb": 0.0, "stream_groups": 2},
        pytest.param({"views": 2}, marks=pytest.mark.slow),
        pytest.param({"memory_gb": 0.0}, marks=pytest.mark.slow),
    ],
    ids=["in memory", "stream groups", "views", "streamed"],
)
def test_a_killed_run_goes_on_with_the_same_losses(unpaired, tmp_path, data):
    distill(unpaired(**data), tmp_path / "whole")
    with pytest.raises(KilledError):
        distill(unpaired(**data), tmp_path / "cut", observer=Watcher(5, kill))
    distill(unpaired(**data), tmp_path / "cut", resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert weights_hash(load_clip(str(tmp_path / "cut")).model) == weights_hash(
        load_clip(str(tmp_path / "whole")).model
    )


@pytest.mark.parametrize("memory_gb", [4.0, 0.0], ids=["in memory", "streamed"])
def test_a_mixture_goes_on_with_the_same_losses(unpaired, shards, texts, tmp_path, memory_gb):
    mix = [
        {"pairs": str(shards / "train-0.tar.gz"), "weight": 3.0},
        {"images": str(shards / "train-1.tar"), "texts": texts},
    ]
    config = unpaired(images=None, texts=None, mix=mix, memory_gb=memory_gb)
    distill(config, tmp_path / "whole")
    with pytest.raises(KilledError):
        distill(config, tmp_path / "cut", observer=Watcher(5, kill))
    distill(config, tmp_path / "cut", resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_run_does_not_go_on_with_other_texts(unpaired, tmp_path, texts):
    with pytest.raises(KilledError):
        distill(unpaired(), tmp_path / "run", observer=Watcher(3, kill))
    Path(texts).write_text("a cat\na dog")
    with pytest.raises(TinyClipError, match="the pictures or texts of data are not those with"):
        distill(unpaired(), tmp_path / "run", resume=True)


@pytest.mark.parametrize("memory_gb", [4.0, 0.0], ids=["in memory", "streamed"])
def test_a_feature_cache_holds_pictures_and_texts(unpaired, tmp_path, silent, memory_gb):
    distill(unpaired(memory_gb=memory_gb), tmp_path / "live")
    config = unpaired(memory_gb=memory_gb, feature_cache=str(tmp_path / "cache"))
    filled = cache_features(config, ProgressLines(Watcher()))
    assert (filled.parts, filled.pictures, filled.captions) == (3, 96, 96)

    silent()
    distill(config, tmp_path / "cached")
    live, cached = losses(tmp_path / "live"), losses(tmp_path / "cached")
    assert cached == pytest.approx(live, rel=1e-3)  # features of half precision


@pytest.mark.parametrize(
    "data",
    [{}, {"memory_gb": 0.0}, pytest.param({"views": 2}, marks=pytest.mark.slow)],
    ids=["in memory", "streamed", "views"],
)
def test_a_feature_cache_holds_all_of_a_mixture(unpaired, shards, texts, tmp_path, silent, data):
    """Pairs, pictures of their own, and pictures that are in both, with captions then."""
    mix = [
        {"pairs": str(shards / "train-0.tar.gz"), "weight": 3.0},
        {"images": [str(shards / name) for name in ("train-0.tar.gz", "train-1.tar")],
         "texts": texts},
    ]  # fmt: skip
    options = {"images": None, "texts": None, "mix": mix, **data}
    distill(unpaired(**options), tmp_path / "live")
    config = unpaired(**options, feature_cache=str(tmp_path / "cache"))
    filled = cache_features(config, ProgressLines(Watcher()))
    pairs = open_source(str(shards / "train-0.tar.gz"))
    captions = {text for pair in pairs for text in pair.captions}
    lines = len(set(Path(texts).read_text().splitlines()) - {""})
    assert (filled.parts, filled.pictures) == (3, 96)
    assert filled.captions == lines + len(captions)  # those of the other shard are ignored
    assert cache_features(config, ProgressLines(Watcher())).computed == 0

    silent()
    distill(config, tmp_path / "cached")
    live, cached = losses(tmp_path / "live"), losses(tmp_path / "cached")
    assert cached[1] == pytest.approx(live[1], rel=1e-3)  # features of half precision
    assert cached == pytest.approx(live, rel=1e-2)  # which steps add up


@pytest.mark.parametrize("data", [{}, {"memory_gb": 0.0}], ids=["in memory", "streamed"])
def test_pictures_alone_teach_the_image_tower(unpaired, toy_teacher_folder, tmp_path, data):
    config = unpaired(texts=None, loss=FEATURE_LOSS, inherit={"text": "frozen"}, steps=12, **data)
    distill(config, tmp_path / "run")
    curve = losses(tmp_path / "run")
    assert curve[12] < 0.8 * curve[1]
    student, teacher = load_clip(str(tmp_path / "run")), load_clip(str(toy_teacher_folder))
    ids = teacher.tokenizer(["a red circle"])
    with torch.no_grad():
        assert torch.equal(student.model.encode_text(ids), teacher.model.encode_text(ids))


@pytest.mark.slow
def test_agreement_with_the_teacher_rises_on_pictures_held_out(unpaired, tmp_path, texts):
    pictures = tmp_path / "pictures"
    for key, files in toy_samples((48,)):
        size, colour, shape, _ = key.split("-")
        path = pictures / f"{colour}_{shape}" / f"{size}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files["png"])
    labels = sorted(path.name.replace("_", " ") for path in pictures.iterdir())
    config = unpaired(
        steps=60,
        lr=3e-3,
        texts={"labels": labels, "templates": ["{}", "a photo of the {}"]},
        val_images=str(pictures),
    )
    result = distill(config, tmp_path / "run")
    first, last = result.evaluations[0], result.evaluations[60]
    assert set(last) == {"agree_1", "agree_5", "agree_kl", "i2t_r1", "images", "labels"}
    assert (last["images"], last["labels"]) == (48, 48)
    assert last["agree_kl"] < 0.5 * first["agree_kl"]
    assert last["agree_1"] > first["agree_1"]
    assert last["agree_5"] > first["agree_5"]
    assert (result.teacher["agree_1"], result.teacher["agree_kl"]) == (1.0, 0.0)
    assert (tmp_path / "run" / "best").is_dir()
    assert len(result.table().rows) == 4


@pytest.mark.parametrize(
    "loss",
    [
        {"contrastive": 1.0},
        {"sigmoid": 1.0, "student_logit_bias": "learned"},
        {"interactive": 1.0},
        {"affinity_hard_positive": 2.0},
        {"affinity_hard_negative": 50.0},
    ],
    ids=lambda loss: next(iter(loss)),
)
def test_terms_that_need_pairs_are_refused_by_name(texts, loss):
    values = {
        "teacher": {"model": "starter-teacher"},
        "student": {"model": "starter-student"},
        "data": {"images": "pictures", "texts": texts},
        "loss": loss,
    }
    key = next(iter(loss))
    with pytest.raises(ConfigError, match=f"loss.{key} needs each picture's own text") as error:
        make_config(values)
    assert f"set loss.{key}=0" in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": {"feature": 1.0}}, "loss.affinity compares pictures with texts"),
        ({"loss": FEATURE_LOSS}, "inherit.text is inherited; set it to frozen"),
        ({"data": {}}, "nothing to train on: set train to pairs, or images and texts"),
        ({"data": {"train": "a", "images": "b"}}, "train and images exclude each other"),
        ({"data": {"mix": [{"weight": 1.0}]}}, "data.mix[1]: needs either pairs or images"),
        ({"data": {"mix": [{"pairs": "a", "wieght": 1.0}]}}, "did you mean 'weight'"),
        ({"data": {"images": "a", "texts": "b", "val": "c", "val_images": "d"}}, "exclude each"),
        ({"data": {"train": "a", "val_images": "b"}}, "val_images needs texts to compare"),
        ({"data": {"train": "a", "val_texts": "b"}}, "val_texts are compared with val_images"),
        ({"data": {"mix": [{"images": "a"}]}}, "mix[1] has images without texts"),
        (
            {"loss": FEATURE_LOSS, "inherit": {"text": "frozen", "plan": "importance"}},
            "measures importance for affinities of pictures and texts",
        ),
        ({"data": {"train": "a", "texts": "b"}}, "texts are drawn independently of images"),
        (
            {"data": {"images": "a", "texts": {"labels": ["x"], "templates": ["a photo"]}}},
            "template 'a photo' must contain {} once",
        ),
    ],
)
def test_contradictions_are_refused_before_anything_is_read(values, message):
    base = {
        "teacher": {"model": "starter-teacher"},
        "student": {"model": "starter-student"},
        "data": {"images": "pictures"},
    }
    with pytest.raises(ConfigError) as error:
        make_config({**base, **values})
    assert message in str(error.value)
