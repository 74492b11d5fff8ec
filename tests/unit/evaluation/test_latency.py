from __future__ import annotations

import time

import numpy as np
import pytest
from toy_embedders import TableEmbedder

from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation import Latency, measure_latency
from tinyclip_edge.evaluation.latency import WARM_UP, torch_threads


def test_summary_by_hand():
    latency = Latency.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (latency.median_ms, latency.min_ms) == (3.0, 1.0)
    assert latency.p95_ms == pytest.approx(4.8)


class Slow(TableEmbedder):
    def __init__(self, calls, label, image_s, text_s):
        self.calls, self.label, self.image_s, self.text_s = calls, label, image_s, text_s

    def encode_image(self, images):
        self.calls.append((self.label, "image", len(images)))
        time.sleep(self.image_s)
        return np.zeros((len(images), 2), np.float32)

    def encode_text(self, texts):
        self.calls.append((self.label, "text", len(texts)))
        time.sleep(self.text_s)
        return np.zeros((len(texts), 2), np.float32)


def test_sleeps_are_measured_in_interleaved_rounds():
    calls = []
    models = {"a": Slow(calls, "a", 0.02, 0.002), "b": Slow(calls, "b", 0.005, 0.01)}
    latency = measure_latency(models, [b"1", b"2"], ["x", "y"], threads=1, rounds=4)
    assert 20 <= latency["a"].image.min_ms < 60 and 2 <= latency["a"].text.min_ms < 20
    assert 5 <= latency["b"].image.min_ms < 40 and 10 <= latency["b"].text.min_ms < 40
    assert (latency["a"].batch, latency["a"].rounds, latency["a"].threads) == (2, 4, 1)
    timed = calls[4 * WARM_UP :]
    everybody = {("a", "image", 2), ("a", "text", 2), ("b", "image", 2), ("b", "text", 2)}
    assert [set(timed[i : i + 4]) for i in range(0, 16, 4)] == [everybody] * 4
    assert {timed[i][:2] for i in range(0, 16, 4)} == {call[:2] for call in everybody}


def test_torch_gets_the_threads_and_its_own_back():
    import torch

    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_an_empty_batch_is_refused():
    with pytest.raises(DataError, match="do not form a batch"):
        measure_latency({}, [], [])
