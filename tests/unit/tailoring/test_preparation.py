"""From a folder to tables and features, with the toy teacher."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tinyclip_edge.config import make_config
from tinyclip_edge.data import FeatureStore, open_training
from tinyclip_edge.errors import DataError
from tinyclip_edge.models import TorchEmbedder
from tinyclip_edge.tailoring import preparation
from tinyclip_edge.tailoring.pictures import list_pictures
from tinyclip_edge.tailoring.preparation import prepare
from tinyclip_edge.tailoring.request import TailorRequest
from tinyclip_edge.tailoring.work import WorkFolder
from tinyclip_edge.train.preflight import domain_check

LABELS = ("red square", "blue circle", "dog")


@pytest.fixture
def folder(tmp_path):
    """45 different pictures of noise, one of them copied."""
    (tmp_path / "pictures").mkdir()
    noise = np.random.default_rng(0)
    for i in range(45):
        pixels = noise.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(
            tmp_path / "pictures" / f"{i}.png"
        )
    shutil.copy(tmp_path / "pictures" / "0.png", tmp_path / "pictures" / "copy.png")
    return tmp_path / "pictures"


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    return WorkFolder(tmp_path / "work")


@pytest.fixture
def prepared(folder, work, toy_teacher, monkeypatch):
    """A function that prepares; a random teacher knows no domain, and sees all as similar."""
    monkeypatch.setattr(domain_check, "common_names", lambda *_, **__: ())
    # Preparation compares the pictures, and the look at the domain not once more.
    monkeypatch.setattr(preparation, "MIN_SCORE", 0.99999)
    monkeypatch.setattr(domain_check, "first_duplicates", pytest.fail)
    request = TailorRequest(folder, LABELS, "toy", work.path / "out", templates=("a {}", "the {}"))
    config = config_of(work)

    def run(said=None):
        listed = list_pictures(folder)
        say = (lambda _: None) if said is None else said.append
        return prepare(request, work, listed, toy_teacher, config, say)

    return run


def config_of(work):
    data = {"images": str(work.train), "texts": str(work.lines("texts"))}
    return make_config({"teacher": {"model": "toy"}, "student": {"model": {}}, "data": data})


def rows_of(table):
    return [json.loads(line) for line in table.read_text().splitlines()]


def test_tables_have_the_teachers_labels(prepared, work, folder, toy_teacher):
    said: list = []
    result = prepared(said)
    train, held = rows_of(work.train), rows_of(work.held_out)
    assert len(train) == result.train and len(train) + len(held) == 46
    assert tuple(row["image"] for row in held) == result.held_out
    paths = [row["image"] for row in train]
    assert (str(folder / "0.png") in paths) == (str(folder / "copy.png") in paths)
    embedder = TorchEmbedder(toy_teacher)
    prompts = [[f"a {label}", f"the {label}"] for label in LABELS]
    classes = np.stack([embedder.encode_text(pair).mean(axis=0) for pair in prompts])
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    best = (embedder.encode_image(result.held_out) @ classes.T).argmax(axis=1)
    assert [row["caption"] for row in held] == [f"a {LABELS[row]}" for row in best]
    assert (result.probabilities.argmax(axis=1) == best).all() and result.targets is None
    assert said == list(result.notes) or said[1:] == list(result.notes)
    assert any("nearly the same" in note for note in result.notes)


def test_runs_find_the_features_of_all_pictures_and_texts(prepared, work, toy_teacher):
    from tinyclip_edge.train.accelerator import make_accelerator
    from tinyclip_edge.train.builder import make_teacher

    prepared()
    config = config_of(work)
    teacher = make_teacher(config, toy_teacher, make_accelerator(config.run).device)
    store = FeatureStore(work.features, teacher.recipe(None), pytest.fail)
    source = open_training(config.data)
    assert store.missing([*source.parts, *source.texts.parts], thorough=True) == []
    attached = store.attached(source)
    pairs = list(attached)
    embedder = TorchEmbedder(toy_teacher)
    assert cosines([pair.cached_view(0) for pair in pairs],
                   embedder.encode_image([pair.image for pair in pairs])) > 0.99999  # fmt: skip
    texts = [f"{word} {label}" for label in LABELS for word in ("a", "the")]
    assert attached.texts.lines == tuple(texts)
    assert cosines([attached.texts.cached[text] for text in texts],
                   embedder.encode_text(texts)) > 0.99999  # fmt: skip


def cosines(rows, wanted):
    """The least cosine of rows in half precision with their unit vectors."""
    rows = np.array(rows, dtype=np.float32)
    return ((rows * wanted).sum(axis=1) / np.linalg.norm(rows, axis=1)).min()


def test_pictures_are_encoded_once(prepared, monkeypatch):
    first = prepared()
    monkeypatch.setattr(preparation, "encode_pictures", pytest.fail)
    again = prepared()
    assert again.held_out == first.held_out and (again.probabilities == first.probabilities).all()


def test_pictures_that_are_all_alike_are_refused(prepared, folder, work):
    for path in folder.iterdir():
        Image.new("RGB", (32, 32), (200, 10, 10)).save(path)
    with pytest.raises(DataError, match="100% of the images are nearly the same"):
        prepared()
    assert not work.train.exists()
