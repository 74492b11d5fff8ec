"""The benchmark of tailored natural classifiers: its folder has no labels, its measure has them."""

from __future__ import annotations

import io
import tarfile

import pytest


@pytest.fixture(scope="module")
def benchmark_module():
    import natural_tailored

    return natural_tailored


@pytest.fixture
def data(tmp_path):
    """Twelve classes; two pictures of each to learn from, one held out."""
    folder = tmp_path / "data"
    folder.mkdir()
    classes = [f"n{number:02}" for number in range(12)]
    lines = [f"{name}\tname of {name}, synonym" for name in classes]
    (folder / "classes.tsv").write_text("\n".join(lines) + "\n")
    for tar, count in (("train-00.tar", 2), ("val.tar", 1)):
        with tarfile.open(folder / tar, "w") as shard:
            for number in range(count):
                for name in classes:
                    content = f"{tar} {name} {number}".encode()
                    member = tarfile.TarInfo(f"{name}/{name}_{number}.JPEG")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
    return folder


def test_the_folder_has_the_domain_without_labels(benchmark_module, data, tmp_path):
    folder, labels = tmp_path / "own", tmp_path / "labels.txt"
    assert benchmark_module.write_folder(data, "smoke", folder, labels) == 10
    names = [f"name of n{number:02}" for number in range(5)]  # half of the scale's classes
    assert labels.read_text().splitlines() == names
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"{number:05}.jpg" for number in range(10)]
    assert files[6].read_text() == "train-00.tar n01 1"
    written = files[0].stat().st_mtime_ns
    benchmark_module.write_folder(data, "smoke", folder, labels)
    assert files[0].stat().st_mtime_ns == written  # else tailor takes it for another picture


def test_what_is_measured_on_has_the_place_of_each_label(benchmark_module, data):
    labelled = benchmark_module.held_out(data, "smoke")
    assert [image.decode() for image in labelled.images] == [
        f"val.tar n{number:02} 0" for number in range(5)
    ]
    assert (list(labelled.targets), labelled.labels[1]) == ([0, 1, 2, 3, 4], "name of n01")
