"""Models before held-out pictures, with the toy teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tinyclip_edge.models import TorchEmbedder
from tinyclip_edge.runtime.prompts import class_features
from tinyclip_edge.tailoring import evaluation
from tinyclip_edge.tailoring.agreement import label_probabilities
from tinyclip_edge.tailoring.evaluation import evaluate_general
from tinyclip_edge.tailoring.preparation import Prepared
from tinyclip_edge.tailoring.request import TailorRequest

LABELS = ("cat", "dog", "bicycle")


def test_the_model_to_compare_with_is_opened_once(
    tmp_path, toy_teacher, toy_teacher_folder, monkeypatch
):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    random = np.random.default_rng(0)
    for path in paths:
        Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    embedder = TorchEmbedder(toy_teacher)
    images, classes = embedder.encode_image(paths), class_features(embedder, LABELS)
    probabilities = label_probabilities(images, classes, toy_teacher.logit_scale, None)
    prepared = Prepared(0, tuple(map(str, paths)), probabilities, None, None, ())
    request = TailorRequest(
        tmp_path, LABELS, "toy", tmp_path / "out", general=str(toy_teacher_folder)
    )
    opened: list = []
    real = evaluation.open_embedder
    monkeypatch.setattr(
        evaluation, "open_embedder", lambda *a, **k: opened.append(a) or real(*a, **k)
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        entry = evaluate_general(request, prepared)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert len(opened) == 1 and entry.ms > 0
    weights = sum(each.numel() for each in toy_teacher.model.parameters())
    assert entry.mb == pytest.approx(4 * weights / 1e6, rel=0.1)
    # The model is the teacher itself.
    assert (entry.agreement.top1, entry.agreement.pictures) == (1.0, 4)
    assert entry.agreement.kl == pytest.approx(0, abs=1e-6)
