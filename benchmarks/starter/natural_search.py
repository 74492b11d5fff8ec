"""Measure search in a visitor's own words: ``python -m starter.natural_search``.

``natural_queries.json`` has 200 queries, written by hand before any of the compared teachers was
trained: synonyms, short descriptions and categories. Three of them are keywords of the kit
("cheers", "puppy", "furious"), none is a picture's name. Each lists the names of its relevant
pictures among the 1,577 of ``starter:test_style``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import ndcg_score

from tinyclip_edge.evaluation.sets import evaluation_set
from tinyclip_edge.models.names import STARTER_TEACHER
from written import print_result

QUERIES = Path(__file__).with_name("natural_queries.json")
SOURCE = "starter:test_style"


def search_figures(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> dict[str, float]:
    """Return mean precision@5 and nDCG@10, in percent, of scores and relevance ``[Q, N]``.

    Precision divides by five even if fewer pictures are relevant.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    precision = np.take_along_axis(relevant, best, axis=1).mean()
    return {
        "precision@5": round(100 * float(precision), 2),
        "ndcg@10": round(100 * float(ndcg_score(relevant, scores, k=10)), 2),
    }


def main() -> None:
    """Command line entry."""
    from tinyclip_edge.evaluation.open import open_embedder

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[STARTER_TEACHER], help="MODEL or LABEL=MODEL")
    parser.add_argument(
        "--phrases", type=Path, help="bank of a training: also measures queries that it lacks"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    queries = json.loads(QUERIES.read_text(encoding="utf-8"))
    groups = {"all": np.ones(len(queries), np.bool_)}
    if arguments.phrases is not None:
        with np.load(arguments.phrases, allow_pickle=False) as bank:
            known = {text.lower() for text in bank["texts"].tolist()}
        groups["not in training"] = np.array([query.lower() not in known for query in queries])
    pictures = evaluation_set(SOURCE)
    relevant = np.array([[name in names for name in pictures.texts] for names in queries.values()])
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for name in arguments.models:
        label, _, path = name.rpartition("=")
        model = open_embedder(path)
        scores = model.encode_text(list(queries)) @ model.encode_image(pictures.images).T
        rows[label or path] = {
            group: {
                "queries": int(chosen.sum()),
                **search_figures(scores[chosen], relevant[chosen]),
            }
            for group, chosen in groups.items()
        }
    print_result({"models": rows}, arguments.out)


if __name__ == "__main__":
    main()
