"""A teacher with a text tower of transformers: from the first step to a bundle of its student."""

from __future__ import annotations

import numpy as np
import pytest

from pair_shards import COLOURS, draw
from text_towers import make_teacher
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.models import TorchEmbedder, load_clip, save_local_dir
from tinyclip_edge.train import distill
from tinyclip_export import export_bundle
from toy_runs import Watcher, events_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("no_report", "quick_exports"),
]
# An open_clip transformer, and the teacher's own kind, whose weights it inherits.
STUDENTS = {
    "none": {"text_cfg": {"hf_model_name": None, "width": 64, "heads": 2, "layers": 2}},
    "uniform": {"text_cfg": {"width": 32, "layers": 1}},
}
TEXTS = ["a red bicycle", "a red bicycle in the rain", "a cat and a dog", "a dog and a cat"]


@pytest.mark.parametrize("method", STUDENTS)
@pytest.mark.parametrize("kind", ["xlm-roberta-base", "google/mt5-base"])
def test_its_student_is_trained_and_exported(kind, method, make, tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    teacher = make_teacher(kind, tmp_path / "own", monkeypatch)
    save_local_dir(tmp_path / "teacher", teacher)
    config = make(
        teacher={"model": str(tmp_path / "teacher")},
        student={"model": STUDENTS[method]},
        inherit={"method": method},
        optim={"steps": 3},
        data={"val": None},
    )
    watcher = Watcher()
    distill(config, tmp_path / "run", observer=watcher)
    assert events_of(tmp_path / "run", "probe") == []
    clip = load_clip(str(tmp_path / "run"))
    images = [draw(colour, "square", "big") for colour in COLOURS]
    texts = [f"a photo of the {colour} square" for colour in COLOURS]
    export_bundle(clip, tmp_path / "bundle", precisions=("fp32",), pairs=(images, texts))
    edge = EdgeCLIP.load(tmp_path / "bundle", precision="fp32")
    ours = TorchEmbedder(clip).encode_text(TEXTS)
    assert np.abs(edge.encode_text(TEXTS) - ours).max() < 1e-5
    assert np.linalg.norm(ours[0] - ours[1]) > 1e-3 < np.linalg.norm(ours[2] - ours[3])
