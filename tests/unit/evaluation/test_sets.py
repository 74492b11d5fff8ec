from __future__ import annotations

import json
import tarfile

import pytest
from toy_embedders import square, write_tar

from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation import EvalSet, check_set, evaluation_set


def test_unseen_style_is_one_emoji_a_name_with_icons_apart(kit):
    dataset = evaluation_set("starter:test_style")
    assert dataset.texts == ("red", "green", "blue")
    assert dataset.subsets == {"without flags": (0, 1), "flags": (2,)}
    assert dataset.companions["icons"].texts == ("green", "grey")
    assert all(isinstance(image, bytes) for image in dataset.images)


def test_unseen_concepts_are_emoji_and_icons_without_double_names(kit):
    dataset = evaluation_set("starter:test_concepts")
    assert dataset.texts == ("red", "green", "blue", "grey")
    assert dataset.subsets == {"emoji": (0, 1, 2), "icons": (3,)}


def test_limit_spreads_over_the_set(kit):
    dataset = evaluation_set("starter:test_style", limit=2)
    assert dataset.texts == ("red", "green") and dataset.subsets == {"without flags": (0, 1)}
    assert len(evaluation_set("starter:test_style", limit=99)) == 3


def test_unknown_and_missing_starter_sets(kit):
    with pytest.raises(DataError, match="did you mean 'test_style'"):
        evaluation_set("starter:test_stile")
    with pytest.raises(DataError, match="incomplete"):
        evaluation_set("starter:val")


def members(colours):
    return [(f"{c}/{i}.JPEG", square(c, "JPEG")) for i in range(3) for c in colours]


def test_a_tar_of_class_folders(tmp_path):
    path = write_tar(tmp_path / "pictures.tar", members(["red", "blue"]))
    dataset = evaluation_set(str(path))
    assert dataset.texts == ("red", "blue") * 3
    assert dataset.classnames == ("red", "blue") and dataset.targets == (0, 1) * 3
    assert evaluation_set(str(path), limit=3).texts == ("red", "blue", "red")


def test_a_folder_of_class_folders_with_names(tmp_path):
    for label, colour in (("n01", "red"), ("n02", "blue")):
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.png").write_bytes(square(colour))
    (tmp_path / "n01" / "notes.txt").write_text("no image")
    (tmp_path / "classes.tsv").write_text("n01\tgoldfish, Carassius auratus\nn02\tbull_frog\n")
    dataset = evaluation_set(str(tmp_path))
    assert dataset.texts == ("goldfish", "bull_frog")
    (tmp_path / "classes.tsv").write_text("n01 goldfish\n")
    with pytest.raises(DataError, match=r"classes\.tsv:1"):
        evaluation_set(str(tmp_path))


def test_a_flat_tar_is_named_by_its_files(tmp_path):
    path = write_tar(tmp_path / "flat.tar", [("n01440764_great_tench.JPEG", square("red", "JPEG"))])
    assert evaluation_set(str(path)).texts == ("great tench",)


def test_a_limit_takes_from_every_class(tmp_path):
    blocks = [(f"{c}/{i}.png", square(c)) for c in ("red", "blue", "lime") for i in range(4)]
    dataset = evaluation_set(str(write_tar(tmp_path / "sorted.tar", blocks)), limit=6)
    assert sorted(dataset.texts) == ["blue", "blue", "lime", "lime", "red", "red"]


def test_shards_give_the_first_caption(tmp_path):
    write_tar(
        tmp_path / "a-0.tar",
        [
            ("1.png", square("red")),
            ("1.txt", b"a red square\nred\n"),
            ("2.jpg", square("blue", "JPEG")),
            ("2.json", json.dumps({"caption": "a blue square"}).encode()),
        ],
    )
    dataset = evaluation_set(str(tmp_path / "a-*.tar"))
    assert dataset.texts == ("a red square", "a blue square")
    assert dataset.queries() == (["a red square", "red", "a blue square"], [0, 0, 1])
    assert evaluation_set(str(tmp_path / "a-0.tar"), limit=1).texts == ("a red square",)


def test_bad_images_of_shards_are_skipped_counted_or_too_many(tmp_path):
    shades = [square((i, 0, 0)) for i in range(150)]
    good = [(f"{i}.{s}", c) for i in range(150) for s, c in (("png", shades[i]), ("txt", b"r"))]
    bad = [("bad.png", b"junk"), ("bad.txt", b"b")]
    dataset = evaluation_set(str(write_tar(tmp_path / "one.tar", [*good, *bad])))
    assert len(dataset) == 150 and "bad" in dataset.notes[0]
    with pytest.raises(DataError, match="cannot be decoded"):
        evaluation_set(str(write_tar(tmp_path / "two.tar", [*good[:20], *bad])))


def test_empty_missing_and_broken_sources(tmp_path):
    with pytest.raises(DataError, match="has no image"):
        evaluation_set(str(tmp_path))
    with pytest.raises(DataError, match="nothing matches"):
        evaluation_set(str(tmp_path / "none.tar"))
    content = write_tar(tmp_path / "whole.tar", members(["red"] * 30)).read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: len(content) - 12_000])
    with pytest.raises(DataError, match=r"cut\.tar"):
        evaluation_set(str(tmp_path / "cut.tar"))
    (tmp_path / "text.tar").write_text("no tar")
    with pytest.raises(DataError, match=r"text\.tar"):
        evaluation_set(str(tmp_path / "text.tar"))


def test_a_cut_shard_is_a_note(tmp_path):
    pairs = [
        (f"{i}.{s}", c) for i in range(150) for s, c in (("png", square((i, 0, 0))), ("txt", b"r"))
    ]
    path = write_tar(tmp_path / "pairs.tar", pairs)
    with tarfile.open(path) as tar:
        last = tar.getmembers()[298]  # picture of the last sample
    path.write_bytes(path.read_bytes()[: last.offset_data + 5])
    dataset = evaluation_set(str(tmp_path / "pairs*.tar"))
    assert len(dataset) == 149
    message = "is truncated after 149 samples; the incomplete one is skipped"
    assert dataset.notes == (f"shard {path} {message}",)


def test_bad_images_of_class_tars_are_skipped_counted_or_too_many(tmp_path):
    good = [(f"red/{i}.png", square("red")) for i in range(150)]
    bad = [("red/bad.png", b"junk")]
    dataset = evaluation_set(str(write_tar(tmp_path / "one.tar", [*good, *bad])))
    assert len(dataset) == 150
    assert "skipped 1 of 151" in dataset.notes[0] and "red/bad.png" in dataset.notes[0]
    with pytest.raises(DataError, match=r"1 of 21 images cannot be decoded.*red/bad\.png"):
        evaluation_set(str(write_tar(tmp_path / "two.tar", [*good[:20], *bad])))


def test_bad_images_of_class_folders_are_skipped_counted_or_too_many(tmp_path):
    (tmp_path / "red").mkdir()
    for i in range(120):
        (tmp_path / "red" / f"{i:03}.png").write_bytes(square("red"))
    cut = square("red", "JPEG")
    (tmp_path / "red" / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    dataset = evaluation_set(str(tmp_path))
    assert len(dataset) == 120 and "red/cut.jpg" in dataset.notes[0]
    for i in range(1, 120):
        (tmp_path / "red" / f"{i:03}.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images cannot be decoded.*red/cut\.jpg"):
        evaluation_set(str(tmp_path))


def test_a_limit_counts_images_that_decode(tmp_path):
    good = [(f"{c}/{i}.png", square(c)) for c in ("blue", "red") for i in range(1, 100)]
    path = write_tar(tmp_path / "first.tar", [("blue/0.png", b"junk"), *good])
    dataset = evaluation_set(str(path), limit=110)
    assert len(dataset) == 110 and dataset.texts.count("blue") == 55 and dataset.notes


def test_a_broken_starter_shard_is_named_in_one_line(kit):
    shard = kit / "test_style-00000.tar.gz"
    content = shard.read_bytes()
    for broken in (content[:-4], content[: len(content) // 2], b"no shard", b""):
        shard.write_bytes(broken)
        with pytest.raises(DataError, match=r"test_style-00000\.tar\.gz.* damaged") as caught:
            evaluation_set("starter:test_style")
        assert "\n" not in str(caught.value)


def test_starter_samples_without_all_parts_are_a_broken_shard(kit):
    for members in ([("a.json", b"{}")], [("a.webp", b""), ("a.txt", b"a"), ("a.json", b"{")]):
        write_tar(kit / "test_style-00000.tar.gz", members, zipped=True)
        with pytest.raises(DataError, match=r"test_style-00000\.tar\.gz"):
            evaluation_set("starter:test_style")


def test_rows_of_one_picture_are_one_image_wherever_they_stand(tmp_path):
    for name, colour in (("a", "red"), ("b", "blue"), ("again", "red")):
        (tmp_path / f"{name}.png").write_bytes(square(colour))
    rows = ["a,one", "b,two", "a,three", "again,four", "b,five", "a,one"]
    lines = ["image,caption", *(row.replace(",", ".png,") for row in rows)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    dataset = evaluation_set(str(tmp_path / "t.csv"))
    assert len(dataset) == 2
    assert dataset.captions == (("one", "three", "four"), ("two", "five"))


def test_a_selection_keeps_images_texts_and_captions_together():
    captions = (("a", "a2"), ("b",), ("c", "c2"))
    full = EvalSet("toy", (b"0", b"1", b"2"), ("a", "b", "c"), {"odd": (1,)}, captions=captions)
    part = full.select([2, 0])
    assert (part.images, part.texts, part.subsets) == ((b"2", b"0"), ("c", "a"), {})
    assert part.queries() == (["c", "c2", "a", "a2"], [0, 0, 1, 1])


def test_a_configuration_stands_for_its_validation_pairs(tmp_path):
    for name in ("red", "green"):
        (tmp_path / f"{name}.png").write_bytes(square(name, "PNG"))
    table = tmp_path / "val.csv"
    table.write_text("photo;alt\nred.png;a red one\ngreen.png;a green one\n")
    run = tmp_path / "run.yaml"
    data = f'train: x.tar, columns: {{image: photo, text: alt}}, delimiter: ";", val: {table}'
    run.write_text(f"teacher: {{model: x}}\nstudent: {{model: y}}\ndata: {{{data}}}\n")
    check_set(str(run))
    dataset = evaluation_set(str(run))
    assert (dataset.name, dataset.texts) == (str(table), ("a red one", "a green one"))
    run.write_text(run.read_text().replace(str(table), '["pipe:cat x"], allow_pipes: true'))
    for look in (check_set, evaluation_set):
        with pytest.raises(DataError, match="runs a command"):
            look(str(run))
    run.write_text("teacher: {model: x}\nstudent: {model: y}\ndata: {train: x.tar}\n")
    with pytest.raises(DataError, match=r"data\.val is null"):
        check_set(str(run))
