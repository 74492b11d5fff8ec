"""Both rulers are given the same pictures, texts and prompts, and are compared in points."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from tinyclip_edge.evaluation import EvalSet


@pytest.fixture(scope="module")
def check():
    import cross_check

    return cross_check


def picture(kind):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (9, 80, 200)).save(stream, kind)
    return stream.getvalue()


def members(folder):
    with tarfile.open(folder / "test" / "0.tar") as shard:
        return {m.name: shard.extractfile(m).read() for m in shard}


def test_classes_keep_their_bytes_and_their_numbers(check, tmp_path):
    images = (picture("PNG"), picture("JPEG"), picture("WEBP"))
    dataset = EvalSet("toy", images, ("dog", "cat", "dog"))
    check.write_classes(dataset, ["a photo of a {}.", "{}"], tmp_path)
    assert members(tmp_path) == {
        "000000.png": images[0], "000000.cls": b"0",
        "000001.jpg": images[1], "000001.cls": b"1",
        "000002.webp": images[2], "000002.cls": b"0",
    }  # fmt: skip
    assert (tmp_path / "classnames.txt").read_text() == "dog\ncat"
    templates = (tmp_path / "zeroshot_classification_templates.txt").read_text()
    assert templates == "a photo of a {c}.\n{c}"
    assert (tmp_path / "test" / "nshards.txt").read_text() == "1"


def test_images_on_disk_are_read_for_pairs(check, tmp_path):
    file = tmp_path / "one.png"
    file.write_bytes(picture("PNG"))
    check.write_pairs(EvalSet("toy", (file,), ("naïve dog",)), tmp_path / "pairs")
    assert members(tmp_path / "pairs") == {
        "000000.png": file.read_bytes(),
        "000000.txt": "naïve dog".encode(),
    }
    assert (tmp_path / "pairs" / "dataset_type.txt").read_text() == "retrieval"


@pytest.mark.parametrize("text", ["", "two\nlines"])
def test_a_caption_that_the_other_ruler_would_split_is_refused(check, tmp_path, text):
    with pytest.raises(SystemExit, match="to be exactly one line"):
        check.write_pairs(EvalSet("toy", (picture("PNG"),), (text,)), tmp_path)


def test_a_format_that_the_other_ruler_does_not_decode_is_refused(check, tmp_path):
    with pytest.raises(SystemExit, match="not BMP"):
        check.write_classes(EvalSet("toy", (picture("BMP"),), ("dog",)), ["{}"], tmp_path)


def test_a_tenth_of_a_point_is_agreement_and_more_is_not(check):
    mine = {"t2i@1": 0.5000, "i2t@1": 0.5, "t2i@5": 0.7, "i2t@5": 0.7}
    other = {
        "image_retrieval_recall@1": 0.5009, "text_retrieval_recall@1": 0.5011,
        "image_retrieval_recall@5": 0.7, "text_retrieval_recall@5": 0.7,
    }  # fmt: skip
    rows = {row["figure"]: row for row in check.compare(mine, other, check.RETRIEVAL)}
    assert [rows[name]["agrees"] for name in ("t2i@1", "i2t@1")] == [True, False]
    assert rows["i2t@1"]["gap"] == pytest.approx(0.11)


def test_ties_are_counted_where_another_candidate_equals_the_right_one(check):
    class Fixed:
        def encode_image(self, _):
            return np.eye(3, dtype=np.float32)[[0, 0, 2]]  # two equal pictures

        def encode_text(self, _):
            return np.eye(3, dtype=np.float32)[[0, 1, 2]]

    dataset = EvalSet("toy", (b"", b"", b""), ("a", "b", "c"))
    # Text 0 ties its pictures 0 and 1; picture 1 scores 0 with its text and with text 2.
    assert check.tied(Fixed(), dataset) == {"t2i": 2, "i2t": 1}


def test_ties_with_an_image_s_own_captions_are_none(check):
    class Fixed:
        def encode_image(self, _):
            return np.eye(2, dtype=np.float32)

        def encode_text(self, texts):
            assert texts == ["a", "b", "c", "d"]
            return np.eye(2, dtype=np.float32)[[0, 0, 1, 0]]

    dataset = EvalSet("toy", (b"", b""), ("a", "c"), captions=(("a", "b"), ("c", "d")))
    # Picture 0 scores 1 with its own a and b, and with d of picture 1; d scores 0 with its own.
    assert check.tied(Fixed(), dataset) == {"t2i": 0, "i2t": 1}


def test_all_captions_of_an_image_stand_in_one_file(check, tmp_path):
    image = picture("PNG")
    dataset = EvalSet("toy", (image,), ("one",), captions=(("one", "two", "three"),))
    check.write_pairs(dataset, tmp_path)
    assert members(tmp_path)["000000.txt"] == b"one\ntwo\nthree"


def test_the_layouts_of_tiny_imagenet_and_five_captions_apart(tmp_path):
    from cross_check_sets import write_captions, write_layouts
    from tinyclip_edge.evaluation import evaluation_set

    with tarfile.open(tmp_path / "val.tar", "w") as tar:
        for number, folder in enumerate(("n01443537", "n01641577", "n01443537")):
            member = tarfile.TarInfo(f"{folder}/val_{number}.JPEG")
            content = picture("JPEG")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    names = tmp_path / "classes.tsv"
    names.write_text("n01443537\tfish, goldfish\nn01641577\tfrog\n")
    write_layouts(tmp_path / "val.tar", names, tmp_path / "out")
    for place in ("classes", "annotated"):
        dataset = evaluation_set(str(tmp_path / "out" / place))
        assert sorted(dataset.texts) == ["fish", "fish", "frog"]
    shades = [io.BytesIO() for _ in range(3)]
    for shade, stream in enumerate(shades):
        Image.new("RGB", (4, 4), (shade, 0, 0)).save(stream, "WEBP", lossless=True)
    pairs = [(f"name {n}", stream.getvalue()) for n, stream in enumerate(shades)]
    write_captions(pairs, tmp_path / "five")
    dataset = evaluation_set(str(tmp_path / "five" / "pairs.csv"))
    assert len(dataset) == 3
    assert [len(own) for own in dataset.captions] == [5, 5, 5]


def test_a_folder_without_a_model_is_refused(check, tmp_path):
    with pytest.raises(SystemExit, match=r"open_clip_config\.json"):
        check.model_folder(tmp_path)
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / check.CONFIG).write_text("{}")
    assert check.model_folder(tmp_path) == (tmp_path / "student").resolve()
