"""One order of models from several evaluations: Borda's count and Kemeny's order.

M models, S evaluations, R resamples. Preferences ``[R, M, M]`` are the number of evaluations in
which the model of the row is better than that of the column; a tie counts half for each. Shares
``[R, M, M]`` are the fraction of each place (column) that a model (row) has; ties share places.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

KEMENY_MODELS = 8  # the exact order needs all 2^M sets of models
TIE = 1e-9  # sums of the same hits may differ in the last bits

Floats = npt.NDArray[np.float64]


def preferences_of(scores: Floats) -> Floats:
    """Return the preferences of scores ``[R, S, M]``, where higher is better."""
    difference = scores[..., :, None] - scores[..., None, :]
    wins = (difference > TIE) + 0.5 * (np.abs(difference) <= TIE)
    return np.asarray(wins.sum(axis=1), dtype=np.float64)


def mean_ranks(preferences: Floats, evaluations: int) -> Floats:
    """Return ``[R, M]``, each model's rank averaged over evaluations: 1 is best everywhere.

    Borda's points divided by the number of evaluations are M minus the mean rank.
    """
    points = preferences.sum(axis=-1) - 0.5 * evaluations  # without the tie with itself
    return np.asarray(preferences.shape[-1] - points / evaluations)


def borda_shares(ranks: Floats) -> Floats:
    """Return the shares of places in the order of mean ranks ``[R, M]``."""
    models = ranks.shape[-1]
    difference = ranks[..., :, None] - ranks[..., None, :]
    first = (difference > TIE).sum(axis=-1)[..., None]  # place of the first of those that tie
    tied = (np.abs(difference) <= TIE).sum(axis=-1)[..., None]
    places = np.arange(models)
    return np.where((places >= first) & (places < first + tied), 1.0 / tied, 0.0)


def kemeny_shares(preferences: Floats) -> tuple[Floats, Floats]:
    """Return the shares of places over all best orders, and the number of these orders, ``[R]``.

    The best orders contradict the fewest pairwise preferences (Kemeny-Young). They are computed
    exactly, by dynamic programming over sets of models.
    """
    resamples, models, _ = preferences.shape
    cost = np.zeros((1 << models, resamples))  # fewest contradictions within a set of models
    orders = np.ones((1 << models, resamples))  # number of orders with this cost
    members = [[m for m in range(models) if group >> m & 1] for group in range(1 << models)]
    for group in range(1, 1 << models):
        costs = np.stack([_cost(preferences, cost, members, group, m) for m in members[group]])
        cost[group] = costs.min(axis=0)
        rest = np.stack([orders[group & ~(1 << m)] for m in members[group]])
        orders[group] = np.where(costs <= cost[group] + TIE, rest, 0.0).sum(axis=0)
    shares = np.zeros((resamples, models, models))
    reached = np.zeros((1 << models, resamples))  # share of best orders that end with a set
    reached[-1] = 1.0
    for group in range((1 << models) - 1, 0, -1):
        place = models - len(members[group])
        for m in members[group]:
            rest_group = group & ~(1 << m)
            best = _cost(preferences, cost, members, group, m) <= cost[group] + TIE
            share = np.where(best, reached[group] * orders[rest_group] / orders[group], 0.0)
            shares[:, m, place] += share
            reached[rest_group] += share
    return shares, orders[-1]


def expected_places(shares: Floats) -> Floats:
    """Return ``[R, M]``, counted from 1; tied models have the mean of their places."""
    return np.asarray(shares @ np.arange(1.0, shares.shape[-1] + 1.0))


def _cost(
    preferences: Floats, cost: Floats, members: list[list[int]], group: int, first: int
) -> Floats:
    """Return the fewest contradictions ``[R]`` within a group of models if ``first`` leads it."""
    rest = group & ~(1 << first)
    return np.asarray(preferences[:, members[rest], first].sum(axis=1) + cost[rest])
