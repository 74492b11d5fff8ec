"""What applications do with a bundle: pickle it, name it with ~, save an index."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.errors import BundleError
from tinyclip_edge.evaluation.open import is_bundle
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.index import ImageIndex


def test_a_pickled_model_opens_its_folder_again(tiny_bundle):
    clip = EdgeCLIP.load(tiny_bundle.folder, threads=1, low_memory=True, as_stored=True)
    expected = clip.encode_text(["a red heart"])
    again = pickle.loads(pickle.dumps(clip))
    assert (again.precision, again.threads, again.low_memory, again.as_stored) == (
        clip.precision, 1, True, True,
    )  # fmt: skip
    assert np.array_equal(again.encode_text(["a red heart"]), expected)


def test_a_pickle_holds_no_weights(tiny_bundle):
    clip = EdgeCLIP.load(tiny_bundle.folder)
    clip.encode_text(["a"])
    assert len(pickle.dumps(clip)) < 1000


@pytest.mark.parametrize("place", ["~", "$BUNDLES"])
def test_home_and_variables_are_filled_in(tiny_bundle, monkeypatch, place):
    monkeypatch.setenv("HOME", str(tiny_bundle.folder.parent))
    monkeypatch.setenv("BUNDLES", str(tiny_bundle.folder.parent))
    name = f"{place}/{tiny_bundle.folder.name}"
    clip = EdgeCLIP.load(name)
    assert clip.folder == tiny_bundle.folder
    assert Manifest.read(name) == clip.manifest
    assert is_bundle(name)


def test_an_index_keeps_the_name_passed_to_it(tmp_path):
    index = ImageIndex(("a",), np.ones((1, 4), np.float32) / 2, "hash")
    assert index.save(tmp_path / "x.NPZ") == tmp_path / "x.NPZ"
    assert [path.name for path in tmp_path.iterdir()] == ["x.NPZ"]
    assert ImageIndex.load(tmp_path / "x.NPZ").keys == ("a",)


def test_a_git_lfs_pointer_names_the_cure(tiny_bundle):
    clip = EdgeCLIP.load(tiny_bundle.folder, verify=False)
    path = tiny_bundle.folder / clip.manifest.tower_path("text", clip.precision)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(BundleError, match=r"is a Git LFS pointer, .*`git lfs pull`"):
        clip.encode_text(["a"])
    with pytest.raises(BundleError, match=r"is a Git LFS pointer, .*`git lfs pull`"):
        clip.manifest.verify_files(tiny_bundle.folder)
