"""Teachers: several answer with the mean of their logits, a cache spares them the known rows."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from families import family
from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import TeacherConfig
from tinyclip_edge.data import CachedRows, PairMemory, open_source
from tinyclip_edge.losses.similarity import part_logits
from tinyclip_edge.models import create_student, weights_hash
from tinyclip_edge.models.logit_bias import with_logit_bias
from tinyclip_edge.train.tasks.encoders import pixel_codec
from tinyclip_edge.train.tasks.ensemble import FrozenEncoder, load_ensemble, teacher_dtype
from tinyclip_edge.train.tasks.teacher import Teacher
from tinyclip_edge.train.tasks.validation import Validation, accuracies

CPU = torch.device("cpu")


@pytest.fixture
def other(toy_teacher_of):
    """A teacher of another seed, image size, mean and scale."""
    first = toy_teacher_of(1)
    shape = {"vision_cfg": {"image_size": 16}, "embed_dim": 48}
    clip = create_student(shape, first)
    clip.config["preprocess_cfg"] |= {"mean": [0.4, 0.4, 0.4], "std": [0.5, 0.5, 0.5]}
    with torch.no_grad():
        clip.model.logit_scale.fill_(math.log(40.0))
    return clip


def ask(clip, **options):
    return Teacher(clip, pixel_codec(clip), device=CPU, **options)


class Says(nn.Module):
    """Towers that answer with given rows."""

    def __init__(self, image, text):
        super().__init__()
        self.rows = torch.tensor(image), torch.tensor(text)

    def encode_image(self, pixels):
        return self.rows[0]

    def encode_text(self, tokens):
        return self.rows[1]


def test_the_mean_of_logits_by_hand(toy_teacher, other, batch):
    with torch.no_grad():
        toy_teacher.model.logit_scale.fill_(math.log(10.0))
        other.model.logit_scale.fill_(math.log(20.0))
    frozen = ask(toy_teacher, ensemble=[(other, 3.0)])
    # weights 1/4 and 3/4: 0.25 * 10 + 0.75 * 20 = 17.5
    assert frozen.scale == pytest.approx(17.5, rel=1e-6)
    answers = Says([[1.0, 0.0]], [[0.6, 0.8]]), Says([[0.0, 1.0]], [[0.96, 0.28]])
    frozen.members = [replace(v, encoder=a) for v, a in zip(frozen.members, answers, strict=True)]
    image, text = frozen.features_of(batch)
    assert image.shape == (1, 4)
    assert torch.allclose(image.norm(dim=-1), torch.ones(1))
    assert torch.allclose(text.norm(dim=-1), torch.ones(1))
    # 0.25 * 10 * 0.6 + 0.75 * 20 * 0.28 = 1.5 + 4.2
    assert (frozen.scale * image @ text.T).item() == pytest.approx(5.7, rel=1e-5)


def test_each_teacher_sees_pixels_of_its_size_mean_and_std(toy_teacher, other, batch):
    joined = ask(toy_teacher, ensemble=[(other, 1.0)])
    image, text = joined.features_of(batch)
    assert (joined.embedding_dim, image.shape[1], text.shape[1]) == (112, 112, 112)
    small = nn.functional.interpolate(
        batch.pixels / 255, (16, 16), mode="bicubic", antialias=True
    ).clamp(0, 1)
    with torch.no_grad():
        alone = other.model.encode_image((small - 0.4) / 0.5, normalize=True)
        words = other.model.encode_text(other.tokenizer(list(batch.captions)), normalize=True)
    share = 40 / (40 + 1 / 0.07)
    assert torch.allclose(image[:, 64:], math.sqrt(share) * alone, atol=1e-5)
    assert torch.allclose(text[:, 64:], math.sqrt(share) * words, atol=1e-5)
    first = ask(toy_teacher).features_of(batch)
    assert torch.allclose(image[:, :64], math.sqrt(1 - share) * first[0], atol=1e-5)


@pytest.mark.parametrize("names", [("XLM-R",), ("ChineseCLIP", "mT5")])
def test_each_teacher_reads_its_own_ids(toy_teacher, batch, names):
    """Tokenizers of other kinds, padded with 1 or with 0, beside CLIP's."""
    others = [family(name) for name in names]
    joined = ask(toy_teacher, ensemble=[(clip, 1.0) for clip in others])
    text = joined.features_of(batch)[1]
    start, everyone = 0, [toy_teacher, *others]
    ids = [clip.tokenizer(list(batch.captions)) for clip in everyone]
    assert len({tuple(rows[4][:6].tolist()) for rows in ids}) == len(everyone)
    total = sum(clip.logit_scale for clip in everyone)
    for clip, rows in zip(everyone, ids, strict=True):
        stop = start + clip.embedding_dim
        with torch.no_grad():
            alone = clip.model.encode_text(rows, normalize=True)
        part = text[:, start:stop] / math.sqrt(clip.logit_scale / total)
        assert torch.allclose(part, alone, atol=1e-5)
        start = stop
    tokens = [teacher["tokenizer"] for teacher in joined.recipe(None)["teachers"]]
    assert len(set(tokens)) == len(everyone)


def test_a_teacher_beside_itself_says_the_same(toy_teacher, toy_teacher_of, batch):
    alone, twin = ask(toy_teacher), toy_teacher_of(0)
    twice = ask(toy_teacher, ensemble=[(twin, 5.0)])
    one, both = alone.features_of(batch), twice.features_of(batch)
    assert twice.scale == pytest.approx(alone.scale)
    assert torch.allclose(both[0] @ both[1].T, one[0] @ one[1].T, atol=1e-6)


def test_hashes_tell_teachers_and_their_weights_apart(toy_teacher, other):
    alone = ask(toy_teacher)
    assert alone.sha256 == weights_hash(toy_teacher.model)
    hashes = {ask(toy_teacher, ensemble=[(other, w)]).sha256 for w in (1.0, 2.0)}
    assert len({*hashes, alone.sha256}) == 3
    recipe = ask(toy_teacher, ensemble=[(other, 3.0)]).recipe(None)
    assert [t["weight"] for t in recipe["teachers"]] == [0.25, 0.75]
    assert recipe["teachers"][0]["weights"] == alone.sha256
    assert (recipe["width"], recipe["views"]) == (112, None)


def test_all_teachers_are_measured_together(toy_teacher, other, tmp_path):
    source = open_source(str(write_shard(tmp_path / "v.tar", toy_samples())))
    codec = pixel_codec(toy_teacher)
    validation = Validation(PairMemory.load(source, codec), codec)
    joined = ask(toy_teacher, ensemble=[(other, 1.0)])
    accuracy = joined.measure(validation)
    with torch.no_grad():
        image = joined.encode_images(torch.stack(validation.pairs.images))
        text = joined.encode_texts([validation.pairs.label(concept) for concept in range(48)])
    expected = accuracies(image @ text.T, torch.from_numpy(validation.pairs.concept_of))
    assert accuracy == pytest.approx({**expected, "images": 48.0, "labels": 48.0})
    alone = ask(toy_teacher)
    assert alone.measure(validation) == validation.measure(alone.encoder, toy_teacher)


def test_teachers_of_a_configuration(toy_teacher_folder):
    model = {"model": str(toy_teacher_folder)}
    others = [model, {**model, "weight": 0.5, "temperature": 2.0}]
    config = TeacherConfig.model_validate({"model": "first", "ensemble": others})
    assert [(each.clip.name, *each[1:]) for each in load_ensemble(config)] == [
        ("toy-teacher", 1.0, 1.0), ("toy-teacher", 0.5, 2.0),
    ]  # fmt: skip


def test_a_temperature_for_each_teacher_by_hand(toy_teacher, other, batch):
    with torch.no_grad():
        toy_teacher.model.logit_scale.fill_(math.log(10.0))
        other.model.logit_scale.fill_(math.log(20.0))
    frozen = ask(toy_teacher, ensemble=[(other, 3.0, 5.0)], temperature=0.5)
    # weights 1/4 and 3/4: 0.25 * 10 / 0.5 + 0.75 * 20 / 5 = 5 + 3
    assert frozen.scale == pytest.approx(8.0, rel=1e-6)
    answers = Says([[1.0, 0.0]], [[0.6, 0.8]]), Says([[0.0, 1.0]], [[0.96, 0.28]])
    frozen.members = [replace(v, encoder=a) for v, a in zip(frozen.members, answers, strict=True)]
    image, text = frozen.features_of(batch)
    # 5 * 0.6 + 3 * 0.28
    assert (frozen.scale * image @ text.T).item() == pytest.approx(3.84, rel=1e-5)


def test_the_parts_of_an_ensemble_have_their_own_logits(toy_teacher, other, batch):
    for clip, bias in ((toy_teacher, -4.0), (other, -9.0)):
        with_logit_bias(clip, bias)
    alone = [ask(clip) for clip in (toy_teacher, other)]
    assert alone[0].parts == ()
    assert [each.bias for each in alone] == [-4.0, -9.0]
    joined = ask(toy_teacher, ensemble=[(other, 3.0, 2.0)])
    assert joined.bias == pytest.approx(0.25 * -4.0 + 0.75 * -9.0 / 2)
    features = joined.features_of(batch)
    logits = part_logits(*features, joined.scale, joined.parts)
    assert [(part.weight, part.bias) for part in joined.parts] == [(0.25, -4.0), (0.75, -4.5)]
    first = toy_teacher.logit_scale * torch.matmul(
        alone[0].features_of(batch)[0], alone[0].features_of(batch)[1].T
    )
    assert torch.allclose(logits[0], first, atol=1e-4)
    image, text = (x[:, 64:] / x[:, 64:].norm(dim=-1, keepdim=True) for x in features)
    assert torch.allclose(logits[1], other.logit_scale / 2 * image @ text.T, atol=1e-4)


def test_temperatures_belong_to_the_recipe_of_joined_features_alone(toy_teacher, other):
    plain, warm = ask(toy_teacher), ask(toy_teacher, temperature=2.0)
    assert warm.scale == plain.scale / 2
    assert warm.sha256 == plain.sha256
    assert warm.recipe(None) == plain.recipe(None)
    both = [ask(toy_teacher, ensemble=[(other, 1.0, t)]) for t in (1.0, 2.0)]
    assert both[0].sha256 != both[1].sha256
    assert [t.get("temperature") for t in both[0].recipe(None)["teachers"]] == [None, None]
    assert [t.get("temperature") for t in both[1].recipe(None)["teachers"]] == [None, 2.0]


def test_rows_that_a_cache_brings_are_not_computed(toy_teacher, batch, monkeypatch):
    frozen = ask(toy_teacher)
    image, text = frozen.features_of(batch)
    rows = list(image.half().numpy())
    some = CachedRows.of([rows[0], None, rows[2], rows[3], None, rows[5]])
    computed = []
    encode = Teacher.encode_images
    monkeypatch.setattr(
        Teacher, "encode_images", lambda self, p: computed.append(len(p)) or encode(self, p)
    )
    cached = replace(
        batch, image_features=some, text_features=CachedRows.of(list(text.half().numpy()))
    )
    actual = frozen.features_of(cached)
    assert computed == [2]
    assert torch.allclose(actual[0], image, atol=1e-3)
    assert torch.allclose(actual[0][[1, 4]], image[[1, 4]], atol=1e-6)
    assert torch.allclose(actual[1], text, atol=1e-3)
    assert torch.allclose(actual[1].norm(dim=-1), torch.ones(6), atol=1e-6)


def test_no_row_at_all_is_no_tensor():
    assert CachedRows.of([None, None]) is None
    half = CachedRows.of([None, np.ones(3, dtype=np.float16)])
    assert half.there.tolist() == [False, True]
    assert half.values.tolist() == [[0, 0, 0], [1, 1, 1]]


def test_a_large_batch_is_processed_in_parts(toy_teacher, batch, monkeypatch):
    full = ask(toy_teacher).features_of(batch)
    rows = []
    for name in ("encode_image", "encode_text"):
        encode = getattr(FrozenEncoder, name)
        monkeypatch.setattr(
            FrozenEncoder, name, lambda self, x, e=encode: rows.append(len(x)) or e(self, x)
        )
    parts = ask(toy_teacher, max_batch=4).features_of(batch)
    assert rows == [4, 2, 4, 2]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(full, parts, strict=True))


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("bf16", "cuda", torch.bfloat16),
        ("bf16", "cpu", torch.float32),
        ("fp32", "cuda", torch.float32),
        ("fp16", "cuda", torch.float32),
    ],
)
def test_teachers_are_cast_where_it_pays(precision, device, expected):
    assert teacher_dtype(precision, torch.device(device)) == expected


def test_a_teacher_in_bfloat16_answers_in_float32(toy_teacher, batch):
    exact = ask(toy_teacher).features_of(batch)
    cast = ask(toy_teacher, dtype=torch.bfloat16)
    assert {p.dtype for p in cast.encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in toy_teacher.model.parameters()} == {torch.float32}
    for a, b in zip(exact, cast.features_of(batch), strict=True):
        assert b.dtype == torch.float32
        assert 0.99 < (a * b).sum(dim=-1).min() < 1 - 1e-7  # bf16 keeps 8 bits
    assert cast.recipe(None)["teachers"][0]["dtype"] == "bfloat16"
    assert cast.scale == ask(toy_teacher).scale
