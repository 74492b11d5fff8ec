"""Indexes on disk: reused for the same model and pictures, never for others."""

import pytest
from angle_model import BLUE, GREEN, RED, AngleModel, square

from tinyclip_demo.gallery import Gallery, folder_gallery
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.service import DemoService

WORDS = {"red": 0}
COLOURS = {RED: 0, GREEN: 30, BLUE: 100}


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
        square(colour).save(folder / f"{name}.png")
    return folder


def searched(model, gallery, folder):
    service = DemoService(ModelRegistry([model]), gallery, index_folder=folder)
    (result,) = service.searcher.search("red", 3, gallery, (0,))
    return result


def test_an_index_is_stored_and_read_by_the_next_process(pictures, tmp_path):
    folder = tmp_path / "indexes"
    first = searched(AngleModel("a", COLOURS, WORDS), folder_gallery(pictures), folder)
    assert len(list(folder.glob("*.npz"))) == 1
    model = AngleModel("a", COLOURS, WORDS)
    again = searched(model, folder_gallery(pictures), folder)
    assert (first.index_from_disk, again.index_from_disk) == (False, True)
    assert again.hits == first.hits
    # only the two pictures that tell which model it is
    assert model.image_calls == [2]


def test_another_model_and_changed_pictures_are_encoded_anew(pictures, tmp_path):
    folder = tmp_path / "indexes"
    searched(AngleModel("a", COLOURS, WORDS), folder_gallery(pictures), folder)
    other = AngleModel("a", COLOURS, {**WORDS, "a red bicycle": 10})
    assert not searched(other, folder_gallery(pictures), folder).index_from_disk
    square(BLUE).save(pictures / "red.png")
    square(GREEN).resize((9, 9)).save(pictures / "more.png")
    assert not searched(
        AngleModel("a", COLOURS, WORDS), folder_gallery(pictures), folder
    ).index_from_disk


def test_a_broken_index_and_a_folder_that_cannot_be_written_cost_only_time(pictures, tmp_path):
    folder = tmp_path / "indexes"
    model = AngleModel("a", COLOURS, WORDS)
    searched(model, folder_gallery(pictures), folder)
    (file,) = folder.glob("*.npz")
    file.write_bytes(file.read_bytes()[:40])
    assert not searched(model, folder_gallery(pictures), folder).index_from_disk
    assert searched(model, folder_gallery(pictures), folder).index_from_disk
    (tmp_path / "file").touch()
    result = searched(model, folder_gallery(pictures), tmp_path / "file")
    assert len(result.hits) == 3


def test_pictures_in_memory_have_no_index_on_disk(tmp_path):
    gallery = Gallery("memory", (square(RED),), ("red",))
    searched(AngleModel("a", COLOURS, WORDS), gallery, tmp_path / "indexes")
    assert not (tmp_path / "indexes").exists()
    assert gallery.fingerprint is None
