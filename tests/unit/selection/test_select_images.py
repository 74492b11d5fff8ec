"""Selection by a teacher's features: a target of images, near-duplicates, the feature cache."""

from __future__ import annotations

import json

import pytest

from pair_shards import COLOURS, SHAPES, draw, encoded, write_shard
from tinyclip_edge import select
from tinyclip_edge.data import open_source
from tinyclip_edge.errors import DataError
from tinyclip_edge.train.tasks.teacher import Teacher

SIDES = range(28, 36)  # of pictures, so that no two are equal


@pytest.fixture
def shards(tmp_path):
    """Pictures of each colour and shape, eight times in other sizes, in two shards."""
    rows = [
        (f"{colour}-{shape}-{side}", {
            "png": encoded(draw(colour, shape, "big", side)), "txt": f"{shape} {side}".encode(),
        })
        for side in SIDES
        for colour in COLOURS
        for shape in SHAPES
    ]  # fmt: skip
    return [write_shard(tmp_path / f"{half}.tar", rows[half::2]) for half in range(2)]


@pytest.fixture
def target(tmp_path):
    """Other pictures in red."""
    folder = tmp_path / "target"
    folder.mkdir()
    for side in range(20, 28):
        for shape in SHAPES:
            draw("red", shape, "big", side).save(folder / f"{shape}-{side}.png")
    return folder


def chosen(report):
    return [pair.key for pair in open_source(report.out)]


def test_pictures_like_the_target_are_chosen(shards, target, toy_teacher_folder, tmp_path):
    settings = {"target_images": target, "teacher": str(toy_teacher_folder),
                "feature_cache": tmp_path / "cache", "count": 24}  # fmt: skip
    report = select(shards, tmp_path / "a.selection", **settings)
    red = sum(key.startswith("red") for key in chosen(report))
    assert report.of == 192 and red >= 12  # by chance 4; the toy teacher is not trained
    with pytest.MonkeyPatch.context() as patch:  # the set is not embedded again
        patch.setattr(Teacher, "encode_texts", None)
        again = select(shards, tmp_path / "b.selection", **settings)
    content = [(tmp_path / f"{name}.selection").read_bytes() for name in "ab"]
    assert content[0] == content[1] and again.log_weight == report.log_weight
    both = select(shards, tmp_path / "c.selection", target_texts=["bar"], **settings)
    assert sum(key.startswith("red-bar") for key in chosen(both)) >= 5  # of 8, by chance 1


def test_one_of_each_group_of_near_duplicates(shards, toy_teacher_folder, tmp_path):
    settings = {"target_texts": ["cross 28", "circle 30"], "teacher": str(toy_teacher_folder),
                "feature_cache": tmp_path / "cache", "drop_duplicates": 0.9999}  # fmt: skip
    copies = write_shard(
        tmp_path / "copies.tar",
        [(f"copy-{n}", {"png": encoded(draw("red", "bar", "big", 28)), "txt": b"circle 30"})
         for n in range(40)],
    )  # fmt: skip
    report = select([*shards, copies], tmp_path / "a.selection", count=20, **settings)
    keys = chosen(report)
    assert len(keys) == 20 and sum("copy" in key for key in keys) == 1
    assert report.near_duplicates >= 20
    first = json.loads((tmp_path / "a.selection").read_text().splitlines()[0])
    assert (first["pairs"], first["near_duplicates"]) == (20, 0.9999)
    message = r"only [\d,]+ of 232 pairs are not near-duplicates; lower --count or raise"
    with pytest.raises(DataError, match=message):
        select([*shards, copies], tmp_path / "b.selection", count=230, **settings)


def test_targets_that_say_nothing(shards, target, toy_teacher_folder, tmp_path):
    settings = {"teacher": str(toy_teacher_folder), "count": 5}
    for path in sorted(target.iterdir())[4:]:
        path.write_bytes(b"junk")
    with pytest.raises(DataError, match=r"has 4 of 32 images that can be decoded; at least 5"):
        select(shards, tmp_path / "a.selection", target_images=target, **settings)
    assert not (tmp_path / "a.selection").exists()


def test_the_command_says_what_it_chose(shards, target, toy_teacher_folder, tmp_path, command_line):
    words = ("--target-images", target, "--teacher", toy_teacher_folder, "--count", 9)
    out = tmp_path / "a.selection"
    code, printed, _ = command_line("select", *shards, *words, "--out", out)
    assert code == 0 and "a.selection: 9 of 192 pairs, in " in printed
    assert "; mean log weight " in printed and ", of all pairs " in printed
    code, printed, _ = command_line("select", *shards, *words, "--out", out, "--json")
    report = json.loads(printed)
    assert (code, report["pairs"], report["of"], report["shards"]) == (0, 9, 192, None)
    code, printed, error = command_line("select", *shards, "--count", 9, "--out", out)
    assert (code, printed) == (2, "") and error.startswith("error: a selection needs a target")
