"""Models on the held-out pictures: how often they agree with the teacher."""

from __future__ import annotations

from tinyclip_edge.evaluation import open_embedder
from tinyclip_edge.evaluation.latency import measure_latency, torch_threads
from tinyclip_edge.paths import model_name
from tinyclip_edge.runtime.prompts import class_features
from tinyclip_edge.runtime.protocol import Embedder
from tinyclip_edge.tailoring.agreement import Agreement, agreement, label_probabilities
from tinyclip_edge.tailoring.preparation import Prepared
from tinyclip_edge.tailoring.report import GENERAL, Entry
from tinyclip_edge.tailoring.request import TailorRequest

ROUNDS = 15


def evaluate(request: TailorRequest, prepared: Prepared, model: str) -> Agreement:
    """Return how well a MODEL agrees with the teacher on the held-out pictures."""
    return _agreement(request, prepared, open_embedder(model))


def _agreement(request: TailorRequest, prepared: Prepared, embedder: Embedder) -> Agreement:
    classes = class_features(embedder, request.labels, request.templates)
    images = embedder.encode_image(prepared.held_out)
    probabilities = label_probabilities(images, classes, embedder.logit_scale, prepared.bias)
    return agreement(prepared.probabilities, probabilities, prepared.targets)


def evaluate_general(request: TailorRequest, prepared: Prepared) -> Entry:
    """Return the cost of the whole model to compare with, and its agreement with the teacher."""
    model = str(request.general)
    with torch_threads(1):  # restores PyTorch's threads; onnxruntime's are set when opened
        embedder = open_embedder(model, threads=1)
    times = measure_latency(
        {model: embedder}, prepared.held_out[:1], request.labels[:1], rounds=ROUNDS
    )
    return Entry(
        GENERAL,
        GENERAL,
        model_name(model),
        embedder.spec.bytes_on_disk / 1e6,
        times[model].image.median_ms,
        agreement=_agreement(request, prepared, embedder),
    )
