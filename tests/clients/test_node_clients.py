"""A bundle in transformers.js under Node: tokenizer, both tower classes and the pipeline."""

import json

import numpy as np
import pytest

from bundle_clients import HERE, PACKAGES
from tinyclip_edge import EdgeCLIP

PHOTO = np.random.default_rng(5).integers(0, 256, (160, 160, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def answers(ask_node, opened):
    photo = {"data": PHOTO.ravel().tolist(), "size": len(PHOTO)}
    jobs = [opened.job(dtype, photo=photo) for dtype in ("fp32", "q8")]
    return dict(zip(("fp32", "q8"), ask_node(*jobs), strict=True))


@pytest.mark.parametrize("dtype", ["fp32", "q8"])
def test_transformers_js_gives_pytorchs_answers(answers, opened, dtype):
    opened.check(dtype, answers[dtype])


def test_transformers_js_cuts_the_end_token_off_a_long_text(answers, opened):
    """A limit of that client which the model card tells: the tower then pools at another token."""
    long = answers["fp32"]["long"]
    assert len(long) == opened.context and opened.end not in long


def test_transformers_js_averages_a_photo_by_lanczos_alone(answers, opened):
    """A limit of that client, and the way around it, of which docs/howto/applications.md tells."""
    clip = EdgeCLIP.load(opened.models / opened.name)
    ours, levels = clip.preprocess(PHOTO), 255 * np.array(clip.preprocess.std)[:, None, None]
    own, lanczos = (
        np.abs((np.reshape(pixels, ours.shape) - ours) * levels).mean()
        for pixels in answers["fp32"]["resized"]
    )
    assert own > 20 and lanczos < 5


def test_packages_are_the_pinned_ones(node):
    pinned = json.loads((HERE / "package.json").read_text())["dependencies"]
    for name, version in pinned.items():
        assert json.loads((PACKAGES / name / "package.json").read_text())["version"] == version
