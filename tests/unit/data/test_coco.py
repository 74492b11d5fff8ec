"""COCO captions files as pairs."""

import json

import pytest

from pair_shards import draw, encoded
from tinyclip_edge.data import open_source
from tinyclip_edge.errors import DataError

PIXELS = encoded(draw("red", "bar", "big"))
COCO = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
    "annotations": [
        {"image_id": 9, "caption": "b one"},
        {"image_id": 7, "caption": "a one"},
        {"image_id": 9, "caption": "b two"},
    ],
}


def write(folder, content):
    folder.mkdir(exist_ok=True)
    path = folder / "captions_val2017.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("place", [".", "images", "../val2017", "../images"])
def test_annotations_of_an_image_are_its_captions(tmp_path, place):
    path = write(tmp_path / "annotations", COCO)
    images = (path.parent / place).resolve()
    images.mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        (images / name).write_bytes(PIXELS)
    pairs = list(open_source(str(path)))
    assert [pair.captions for pair in pairs] == [("a one",), ("b one", "b two")]
    assert all(pair.image.is_file() for pair in pairs)


def test_one_faulty_annotation_of_many_is_tolerated_and_bare_images_are_counted(tmp_path):
    images = [{"id": n, "file_name": "a.png"} for n in range(200)]
    notes = [{"image_id": n, "caption": "x"} for n in range(199)]
    path = write(tmp_path / "c", {"images": images, "annotations": [*notes, {"image_id": 1}]})
    (path.parent / "a.png").write_bytes(PIXELS)
    source = open_source(str(path))
    assert len(list(source)) == 199
    assert source.losses.unusable == 1
    assert "skipped 1 images without a caption" in source.losses.lines()[-1]


def test_an_id_that_stands_twice_is_a_fault(tmp_path):
    images = [*COCO["images"], {"id": 7, "file_name": "b.png"}]
    path = write(tmp_path / "c", {**COCO, "images": images})
    (path.parent / "a.png").write_bytes(PIXELS)
    with pytest.raises(DataError, match=r"1 of 3 samples .* image 3 has the same id as an earlier"):
        open_source(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"success": 3}, "not a COCO captions file"),
        ([], "not a COCO captions file"),
        (COCO, "none of the first 2 images"),
        ({**COCO, "images": [{"id": 7, "file_name": "../a.png"}]}, "no image with a caption"),
    ],
)
def test_other_json_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        list(open_source(str(write(tmp_path / "c", content))))
    assert "\n" not in str(caught.value)
