"""Retrieval, zero-shot classification and latency of any Embedder, in PyTorch or ONNX.

Names are loaded on first use, so that opening a bundle does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyclip_edge.lazy import lazy_names

if TYPE_CHECKING:
    from tinyclip_edge.evaluation.bench import BenchReport, bench_models
    from tinyclip_edge.evaluation.classify import ZeroShot, zero_shot
    from tinyclip_edge.evaluation.compare import Comparison, compare_models
    from tinyclip_edge.evaluation.eval_set import EvalSet
    from tinyclip_edge.evaluation.latency import Latency, ModelLatency, measure_latency
    from tinyclip_edge.evaluation.open import check_openable, open_embedder
    from tinyclip_edge.evaluation.report import EvalReport, evaluate_model
    from tinyclip_edge.evaluation.retrieve import (
        HundredWay,
        Retrieval,
        hundred_way,
        retrieval,
        retrieval_of_features,
    )
    from tinyclip_edge.evaluation.sets import check_set, evaluation_set

_HOME = {
    "BenchReport": "bench",
    "Comparison": "compare",
    "EvalReport": "report",
    "EvalSet": "eval_set",
    "HundredWay": "retrieve",
    "Latency": "latency",
    "ModelLatency": "latency",
    "Retrieval": "retrieve",
    "ZeroShot": "classify",
    "bench_models": "bench",
    "check_openable": "open",
    "check_set": "sets",
    "compare_models": "compare",
    "evaluate_model": "report",
    "evaluation_set": "sets",
    "hundred_way": "retrieve",
    "measure_latency": "latency",
    "open_embedder": "open",
    "retrieval": "retrieve",
    "retrieval_of_features": "retrieve",
    "zero_shot": "classify",
}

__all__ = [
    "BenchReport",
    "Comparison",
    "EvalReport",
    "EvalSet",
    "HundredWay",
    "Latency",
    "ModelLatency",
    "Retrieval",
    "ZeroShot",
    "bench_models",
    "check_openable",
    "check_set",
    "compare_models",
    "evaluate_model",
    "evaluation_set",
    "hundred_way",
    "measure_latency",
    "open_embedder",
    "retrieval",
    "retrieval_of_features",
    "zero_shot",
]


__getattr__ = lazy_names(__name__, _HOME)
