"""The teacher's features are computed once, kept in half precision and trusted only if theirs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tinyclip_edge.data import FeatureTable, TeacherFeatures
from tinyclip_edge.errors import DataError

TRUE = F.normalize(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), dim=-1)


def ids(*numbers):
    return np.array(numbers, dtype=np.int64)


def counting(expected, calls):
    def compute(at):
        calls.append([int(expected[i]) for i in at])
        return TRUE[torch.from_numpy(expected[at])]

    return compute


def test_each_row_is_computed_once():
    table, calls = FeatureTable(20), []
    for indices in (ids(3, 5, 3, 9), ids(9, 1, 5), ids(1, 3)):
        actual = table.get(indices, counting(indices, calls))
        assert torch.allclose(actual, TRUE[torch.from_numpy(indices)], atol=1e-3)
        assert torch.allclose(actual.norm(dim=-1), torch.ones(len(indices)), atol=1e-6)
    assert [sorted(call) for call in calls] == [[3, 5, 9], [1]]
    assert table.filled == 4


def fill(features):
    features.image.get(ids(0, 4), lambda at: TRUE[:2])
    features.text.get(ids(2), lambda at: TRUE[5:6])


def forbidden(at):
    raise AssertionError(f"computed {at} again")


def test_saved_features_come_back_to_the_bit(tmp_path):
    path = tmp_path / "features.safetensors"
    before = TeacherFeatures("teacher data", 20, 10)
    fill(before)
    before.save(path)
    after = TeacherFeatures("teacher data", 20, 10)
    assert after.load(path) is None
    assert (after.image.filled, after.text.filled) == (2, 1)
    for table in ("image", "text"):
        indices = ids(0, 4) if table == "image" else ids(2)
        actual = [getattr(f, table).get(indices, forbidden) for f in (before, after)]
        assert torch.equal(*actual)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["other key", "cut", "missing"])
def test_features_of_another_origin_are_not_used(tmp_path, kind):
    path = tmp_path / "features.safetensors"
    features = TeacherFeatures("teacher data", 20, 10)
    fill(features)
    if kind != "missing":
        features.save(path)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    after = TeacherFeatures("teacher" if kind == "other key" else "teacher data", 20, 10)
    assert after.load(path)
    assert after.image.filled == 0


def rewritten(path, **change):
    """The file with other tensors, under its old metadata."""
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    save_file({**load_file(path), **change}, path, metadata=about)


@pytest.mark.parametrize(
    "change",
    [
        {"image_values": -TRUE[:2].half()},
        {"image_ids": torch.tensor([0, 5])},
        {"image_ids": torch.tensor([0, 20])},
        {"image_ids": torch.tensor([-1, 4])},
        {"image_ids": torch.tensor([True, False])},
        {"image_ids": torch.tensor(4)},
        {"text_values": torch.zeros(1, 9).half()},
        {"text_values": torch.zeros(1, 8)},
        {"text_values": torch.zeros(2, 8).half()},
    ],
)
def test_features_that_were_changed_are_not_used(tmp_path, change):
    path = tmp_path / "features.safetensors"
    features = TeacherFeatures("teacher data", 20, 10)
    fill(features)
    features.save(path)
    rewritten(path, **change)
    after = TeacherFeatures("teacher data", 20, 10)
    assert after.load(path) == "have changed since they were written"
    assert after.filled == 0


@pytest.mark.parametrize("opened", [False, True])
def test_a_file_is_written_again_only_for_new_rows(tmp_path, opened):
    path = tmp_path / "features.safetensors"
    features = TeacherFeatures("teacher data", 20, 10)
    fill(features)
    features.save(path)
    if opened:
        features = TeacherFeatures("teacher data", 20, 10)
        assert features.load(path) is None
    first = path.stat().st_ino
    features.save(path)
    assert path.stat().st_ino == first
    features.save(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere").read_bytes() == path.read_bytes()
    features.image.get(ids(7), lambda at: TRUE[:1])
    features.save(path)
    after = TeacherFeatures("teacher data", 20, 10)
    assert after.load(path) is None and after.filled == 4
    path.unlink()
    features.save(path)
    assert path.is_file()


def test_an_empty_cache_can_be_saved(tmp_path):
    path = tmp_path / "features.safetensors"
    TeacherFeatures("k", 3, 3).save(path)
    assert TeacherFeatures("k", 3, 3).load(path) is None


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot write "):
        TeacherFeatures("k", 3, 3).save(tmp_path / "no" / "f.safetensors")


@pytest.mark.parametrize(
    ("ids", "values"),
    [
        (torch.tensor(1), torch.ones(1, 4)),
        (torch.tensor([1]), torch.ones(4)),
        (torch.tensor([1]), torch.ones(2, 4)),
        (torch.tensor([9]), torch.ones(1, 4)),
    ],
)
def test_rows_of_another_shape_are_not_used(tmp_path, ids, values):
    path = tmp_path / "features"
    rows = {"image_ids": ids, "image_values": values, "text_ids": ids, "text_values": values}
    save_file({name: row.clone() for name, row in rows.items()}, path, metadata={"key": "key"})
    assert TeacherFeatures("key", 3, 3).load(path) is not None
