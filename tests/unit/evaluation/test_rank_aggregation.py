from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from tinyclip_edge.evaluation.rank_aggregation import (
    borda_shares,
    expected_places,
    kemeny_shares,
    mean_ranks,
    preferences_of,
)

# Wikipedia, "Kemeny-Young method" and "Borda count": the capital of Tennessee.
CITIES = ("Memphis", "Nashville", "Chattanooga", "Knoxville")
VOTES = {
    "Memphis Nashville Chattanooga Knoxville": 42,
    "Nashville Chattanooga Knoxville Memphis": 26,
    "Chattanooga Knoxville Nashville Memphis": 15,
    "Knoxville Chattanooga Nashville Memphis": 17,
}


def ballots(votes):
    """Scores [1, voters, cities]: higher is preferred."""
    rows = []
    for order, count in votes.items():
        rows += [[-order.split().index(city) for city in CITIES]] * count
    return np.array([rows], dtype=float)


def test_the_capital_of_tennessee():
    preferences = preferences_of(ballots(VOTES))
    memphis, nashville, chattanooga, knoxville = range(4)
    assert preferences[0, memphis, nashville] == 42
    assert preferences[0, nashville, chattanooga] == 68
    assert preferences[0, chattanooga, knoxville] == 83
    shares, orders = kemeny_shares(preferences)
    assert orders.tolist() == [1]
    places = expected_places(shares)[0]
    assert places.tolist() == [4, 1, 2, 3]
    # Borda there: Nashville 194 points, Chattanooga 173, Memphis 126, Knoxville 107.
    points = 100 * (4 - mean_ranks(preferences, 100)[0])
    assert points.tolist() == pytest.approx([126, 194, 173, 107])
    assert expected_places(borda_shares(mean_ranks(preferences, 100)))[0].tolist() == [3, 1, 2, 4]


def contradictions(order, preferences):
    """The pairs that voters order in the other way."""
    return sum(
        preferences[b, a] for place, a in enumerate(order) for b in order[place + 1 :]
    )  # fmt: skip


@pytest.mark.parametrize("models", [1, 2, 3, 5, 6])
def test_kemeny_is_the_mean_of_the_best_of_all_orders(models):
    scores = np.random.default_rng(models).integers(0, 3, (6, 4, models)).astype(float)  # with ties
    preferences = preferences_of(scores)
    shares, orders = kemeny_shares(preferences)
    for row in range(len(scores)):
        costs = {
            order: contradictions(order, preferences[row]) for order in permutations(range(models))
        }
        best = [order for order, cost in costs.items() if cost == min(costs.values())]
        places = np.zeros((models, models))
        for order in best:
            for place, model in enumerate(order):
                places[model, place] += 1 / len(best)
        assert orders[row] == len(best)
        np.testing.assert_allclose(shares[row], places, atol=1e-12)


def test_models_that_are_alike_share_their_places():
    scores = np.array([[[0.5, 0.9, 0.5], [0.2, 0.4, 0.2]]])
    preferences = preferences_of(scores)
    ranks = mean_ranks(preferences, 2)
    assert ranks.tolist() == [[2.5, 1.0, 2.5]]
    halves = [[0, 0.5, 0.5], [1, 0, 0], [0, 0.5, 0.5]]
    assert borda_shares(ranks)[0].tolist() == halves
    shares, orders = kemeny_shares(preferences)
    assert (orders.tolist(), shares[0].tolist()) == ([2], halves)


def test_a_circle_of_preferences_has_no_first():
    # Condorcet's paradox: each of three is best once, second once and last once.
    scores = np.array([[[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [2.0, 1.0, 3.0]]])
    shares, orders = kemeny_shares(preferences_of(scores))
    assert orders.tolist() == [3]
    assert expected_places(shares)[0].tolist() == pytest.approx([2, 2, 2])
