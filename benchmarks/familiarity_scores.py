"""Other scores of familiarity than that of a bundle, at equal rates of false alarms.

Each score adds a distance of the embedding to the looks of a picture; both are turned into p-values
among the pictures of starter:val. Pictures are marked below a limit that 1 or 5 % of starter:val,
or 5 % of the unseen style, do not reach; photographs should be marked.

    python benchmarks/familiarity_scores.py BUNDLE … --photos TAR … \\
        --out benchmarks/results/familiarity-scores.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from familiarity import tar_pictures
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.api.training_pictures import training_pictures
from tinyclip_edge.evaluation import evaluation_set
from tinyclip_edge.models.names import STARTER_TEACHER
from tinyclip_edge.runtime.familiarity import LOOKS, Distance, looks, whitened
from tinyclip_edge.runtime.protocol import Features, ImageInput
from written import print_result

VAL, STYLE = "starter:val", "starter:test_style"
LEADING, NEIGHBOUR, CENTROIDS = 128, 5, 120
Values = Callable[[Features], Features]  # rows [N, D] -> distances [N]
BATCH = 64


def variation(train: Features, directions: int) -> Values:
    """Return the distance along the directions in which training pictures vary least."""
    return Distance(*whitened(train, directions), np.empty(0, np.float32)).values


def residual(train: Features, leading: int) -> Values:
    """Return the norm outside the leading principal directions, as in ViM (arXiv 2203.10807)."""
    mean = train.mean(axis=0)
    axes = np.linalg.svd(train - mean, full_matrices=False)[2][leading:]
    return lambda rows: np.linalg.norm((rows - mean) @ axes.T, axis=1)


def neighbour(train: Features, number: int) -> Values:
    """Return the distance to the nearest training picture but ``number - 1``."""
    found = NearestNeighbors(n_neighbors=number).fit(train)
    return lambda rows: found.kneighbors(rows)[0][:, -1]


def centroid(train: Features, count: int) -> Values:
    """Return the distance to the nearest of the centroids of training pictures."""
    means = KMeans(count, n_init=4, random_state=0).fit(train)
    return lambda rows: means.transform(rows).min(axis=1)


DISTANCES: dict[str, Callable[[Features], Values]] = {
    "64 directions that vary least": lambda train: variation(train, 64),
    "**125 directions**": lambda train: variation(train, 125),
    f"residual outside {LEADING} leading directions (ViM)": lambda train: residual(train, LEADING),
    f"training picture number {NEIGHBOUR} by distance": lambda train: neighbour(train, NEIGHBOUR),
    f"nearest of {CENTROIDS} centroids": lambda train: centroid(train, CENTROIDS),
}
FISHER, ALONE = "125 directions, p-values multiplied (Fisher)", "looks alone"


class Set:
    """Embeddings ``[N, D]`` and looks ``[N, 7]`` of pictures."""

    def __init__(self, clip: EdgeCLIP, pictures: Sequence[ImageInput]) -> None:
        self.embeddings = clip.encode_image(pictures)
        parts = [pictures[at : at + BATCH] for at in range(0, len(pictures), BATCH)]
        seen = [looks(np.stack([clip.preprocess(each) for each in part])) for part in parts]
        self.looks = np.concatenate(seen)


def p_values(values: Features, reference: Features) -> Features:
    """Return the share of reference distances that are at least as large, ``[N]``."""
    ordered = np.sort(reference)
    nearer = np.searchsorted(ordered, values, side="left")
    p: Features = ((1 + len(ordered) - nearer) / (1 + len(ordered))).astype(np.float32)
    return p


def scores(train: Set, sets: dict[str, Set]) -> dict[str, dict[str, Features]]:
    """Return values ``[N]`` of each set by score; small ones are unlike the training."""
    look = variation(train.looks, LOOKS)
    seen = {name: p_values(look(each.looks), look(sets[VAL].looks)) for name, each in sets.items()}
    result = {}
    for label, fitted in DISTANCES.items():
        values = fitted(train.embeddings)
        reference = values(sets[VAL].embeddings)
        p = {name: p_values(values(each.embeddings), reference) for name, each in sets.items()}
        result[label] = {name: np.maximum(p[name], seen[name]) for name in sets}
        if label == "**125 directions**":
            result[FISHER] = {name: p[name] * seen[name] for name in sets}
    # Distances themselves: most of the unseen style has the least p-value.
    return {**result, ALONE: {name: -look(each.looks) for name, each in sets.items()}}


def marked(values: dict[str, Features]) -> dict[str, dict[str, float]]:
    """Return the shares of photographs and of the unseen style that are marked, by limit."""
    limits = {"1 % of val": (VAL, 0.01), "5 % of val": (VAL, 0.05), "5 % of style": (STYLE, 0.05)}
    photos = [name for name in values if name not in (VAL, STYLE)]
    rows = {}
    for name, (source, share) in limits.items():
        limit = np.quantile(values[source], share, method="lower")
        rows[name] = {
            "photographs": float(np.mean([(values[each] < limit).mean() for each in photos])),
            "style": float((values[STYLE] < limit).mean()),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--limit", type=int, default=1000, help="pictures of each tar file")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    photos = {str(path): list(islice(tar_pictures(path), options.limit)) for path in options.photos}
    pictures = {name: evaluation_set(name).images for name in (VAL, STYLE)} | photos
    training = training_pictures(STARTER_TEACHER, VAL)
    assert training is not None  # they are those of the starter kit
    bundles = {}
    for folder in options.bundles:
        clip = EdgeCLIP.load(folder, precision="int8")
        train = Set(clip, training())
        sets = {name: Set(clip, each) for name, each in pictures.items()}
        bundles[clip.name] = {name: marked(p) for name, p in scores(train, sets).items()}
    print_result({"bundles": bundles}, options.out)


if __name__ == "__main__":
    main()
