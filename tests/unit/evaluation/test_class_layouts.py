"""Where the class of an image stands, and what it is called."""

from __future__ import annotations

import os

import pytest
from toy_embedders import ColourEmbedder, square, write_tar

from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation import evaluate_model, evaluation_set

FISH, FROG = "n01443537", "n01641577"


@pytest.fixture
def tiny(tmp_path):
    """Two classes laid out as Tiny-ImageNet is."""
    for name, colour in ((FISH, "red"), (FROG, "green")):
        folder = tmp_path / "tiny" / "train" / name / "images"
        folder.mkdir(parents=True)
        for number in range(3):
            (folder / f"{name}_{number}.JPEG").write_bytes(square(colour, "JPEG"))
        (folder.parent / f"{name}_boxes.txt").write_text("no image\n")
    folder = tmp_path / "tiny" / "val" / "images"
    folder.mkdir(parents=True)
    rows = []
    for number, name in enumerate((FROG, FISH, FROG)):
        (folder / f"val_{number}.JPEG").write_bytes(square("red", "JPEG"))
        rows.append(f"val_{number}.JPEG\t{name}\t0\t0\t9\t9\n")
    (folder.parent / "val_annotations.txt").write_text("".join(rows))
    return tmp_path / "tiny"


def test_the_class_is_the_folder_that_differs(tiny):
    dataset = evaluation_set(str(tiny / "train"))
    assert dataset.texts == ("goldfish",) * 3 + ("bullfrog",) * 3  # ImageNet's names
    assert dataset.targets == (0, 0, 0, 1, 1, 1)
    assert dataset.notes == ()


@pytest.mark.parametrize("place", ["val", "val/images"])
def test_annotations_name_the_classes_of_a_flat_folder(tiny, place):
    (tiny / "words.txt").write_text(f"{FROG}\tfrog, toad\nn00000001\tother\n{FISH}\tfish\n")
    assert evaluation_set(str(tiny / place)).texts == ("frog", "fish", "frog")


def test_an_image_that_annotations_lack_is_named(tiny):
    (tiny / "val" / "images" / "more.JPEG").write_bytes(square("red", "JPEG"))
    with pytest.raises(DataError, match=r"no line for 1 images, first more\.JPEG"):
        evaluation_set(str(tiny / "val"))


def test_names_a_line_are_in_the_order_of_the_folders(tiny):
    (tiny / "train" / "classnames.txt").write_text("fish\nfrog\n")
    assert evaluation_set(str(tiny / "train")).classnames == ("fish", "frog")
    (tiny / "train" / "classnames.txt").write_text("fish\n")
    with pytest.raises(DataError, match=r"classnames\.txt has 1 names for 2 class folders"):
        evaluation_set(str(tiny / "train"))


def test_ids_without_a_name_are_a_warning(tmp_path):
    members = [(f"n9999999{i}/{i}.png", square("red")) for i in range(2)]
    dataset = evaluation_set(str(write_tar(tmp_path / "a.tar", members)))
    assert dataset.classnames == ("n99999990", "n99999991")
    assert "2 classes are named by WordNet ids (n99999990 …)" in dataset.notes[0]


def test_splits_are_not_classes(tiny):
    with pytest.raises(DataError, match=r"has train, val; use one of them"):
        evaluation_set(str(tiny))


def test_folders_of_folders(tmp_path):
    def labels(*names):
        path = write_tar(tmp_path / "a.tar", [(name, square("red")) for name in names])
        return evaluation_set(str(path)).texts

    assert labels("animal/dog/0.png", "animal/cat/0.png", "thing/car/0.png") == (
        "dog", "cat", "car",
    )  # fmt: skip
    assert labels("dog/day1/0.png", "dog/day2/0.png", "cat/day1/0.png", "cat/day2/0.png") == (
        "dog", "dog", "cat", "cat",
    )  # fmt: skip
    assert labels("set/dog/0.png", "set/cat/images/0.png") == ("dog", "cat")


def test_a_flat_folder_and_a_single_class_are_refused(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(square("red"))
    with pytest.raises(DataError, match="images but no class folders; use one folder per class"):
        evaluation_set(str(tmp_path))
    path = write_tar(tmp_path / "one.tar", [(f"dog/{i}.png", square("red")) for i in range(3)])
    with pytest.raises(DataError, match="has one class, 'dog'"):
        evaluate_model(ColourEmbedder(), task="zero-shot", data=str(path))


def test_shards_of_class_numbers_with_their_names(tmp_path):
    members = [
        ("0.png", square("red")),
        ("0.cls", b"1"),
        ("1.png", square("blue")),
        ("1.cls", b"0"),
    ]
    (tmp_path / "test").mkdir()
    write_tar(tmp_path / "test" / "0.tar", members)
    (tmp_path / "classnames.txt").write_text("blue thing\nred thing\n")
    for place in (tmp_path, tmp_path / "test" / "0.tar"):
        assert evaluation_set(str(place)).texts == ("red thing", "blue thing")
    (tmp_path / "classnames.txt").write_text("blue thing\n")
    with pytest.raises(DataError, match=r"'0' has class 1, .*classnames\.txt names 1 classes"):
        evaluation_set(str(tmp_path))


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_what_is_skipped_is_counted_and_files_of_macos_are_no_images(tmp_path, form):
    files = {f"{name}/{number}.png": square(name, "PNG") for name in ("red", "green")
             for number in range(2)}  # fmt: skip
    files |= {"red/._0.png": b"\0\5\x16\7", "red/a.svg": b"<svg/>", "green/b.psd": b"8BPS",
              "classes.tsv": b"red\tred\ngreen\tgreen\n"}  # fmt: skip
    path = tmp_path / "set"
    if form == "tar":
        path = write_tar(tmp_path / "set.tar", files.items())
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    dataset = evaluation_set(str(path))
    assert sorted(dataset.texts) == ["green", "green", "red", "red"]
    hidden = ["1 hidden"] if form == "folder" else []  # a tar's members of that name are none
    (note,) = dataset.notes
    message = f"{path}: skipped files that are not images: "
    assert sorted(note.removeprefix(message).split(", ")) == ["1 .psd", "1 .svg", *hidden]


def test_class_folders_may_be_links_and_a_link_in_a_circle_ends(tmp_path):
    for name in ("red", "green"):
        (tmp_path / "kept" / name).mkdir(parents=True)
        (tmp_path / "kept" / name / "0.png").write_bytes(square(name, "PNG"))
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("red", "green"):
        (folder / name).symlink_to(tmp_path / "kept" / name)
    (tmp_path / "kept" / "red" / "round").symlink_to(folder)
    os.mkfifo(folder / "red" / "pipe.png")  # read, it would be waited for
    assert sorted(evaluation_set(str(folder)).texts) == ["green", "red"]


def test_a_limit_leaves_the_classes_as_many_as_they_are(tmp_path):
    members = [(f"{name}/{n}.png", square(name, "PNG")) for name in ("red", "green", "blue")
               for n in range(2)]  # fmt: skip
    dataset = evaluation_set(str(write_tar(tmp_path / "set.tar", members)), limit=2)
    assert (dataset.texts, dataset.classnames) == (("red", "green"), ("red", "green", "blue"))
    assert dataset.targets == (0, 1)
    shard = [("0.png", square("green", "PNG")), ("0.cls", b"1"), ("1.png", square("green", "PNG")),
             ("1.cls", b"1")]  # fmt: skip
    (tmp_path / "wds").mkdir()
    write_tar(tmp_path / "wds" / "0.tar", shard)
    (tmp_path / "wds" / "classnames.txt").write_text("red\ngreen\nblue\n")
    dataset = evaluation_set(str(tmp_path / "wds"))
    assert (dataset.classnames, dataset.targets) == (("red", "green", "blue"), (1, 1))


def test_classes_of_one_name_are_reported(tmp_path):
    members = [(f"{name}/0.png", square("red", "PNG")) for name in ("n0", "n1", "n2")]
    path = write_tar(tmp_path / "set.tar", members)
    (tmp_path / "classes.tsv").write_text("n0\tcrane\nn1\tcrane, machine\nn2\tbird\n")
    dataset = evaluation_set(str(path))
    assert dataset.classnames == ("crane", "bird")
    assert dataset.notes == ("1 names belong to several classes, which are merged: crane",)
