"""Ratio of two densities of embeddings, from a classifier that distinguishes them.

D is the width of unit-norm embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
HELD_OUT = 5  # one embedding in five is held out to choose the penalty
STEPS = 25
TOLERANCE = 1e-8


@dataclass(frozen=True, slots=True)
class DensityRatio:
    """log p(x) / q(x) as a linear function of x."""

    weights: Doubles  # [D]
    bias: float

    @classmethod
    def fit(cls, target: Floats, raw: Floats, seed: int) -> DensityRatio:
        """Fit p to ``[N, D]`` and q to ``[M, D]`` by logistic regression.

        Both sides have the same weight, so the logit is the log ratio. The penalty is the one with
        the lowest loss on a held-out fifth of both.
        """
        rng = np.random.default_rng([seed, 1])
        p, q = (rng.permutation(each.astype(np.float64)) for each in (target, raw))
        held_p, held_q = p[::HELD_OUT], q[::HELD_OUT]
        rest_p, rest_q = (np.delete(e, slice(None, None, HELD_OUT), axis=0) for e in (p, q))
        losses = [_fitted(rest_p, rest_q, each)._loss(held_p, held_q) for each in PENALTIES]
        return _fitted(p, q, PENALTIES[int(np.argmin(losses))])

    def log(self, embeddings: Floats) -> Doubles:
        """Return log ratios ``[N]``."""
        return embeddings @ self.weights + self.bias

    def _loss(self, p: Doubles, q: Doubles) -> float:
        on_p, on_q = (each @ self.weights + self.bias for each in (p, q))
        return float(np.logaddexp(0, -on_p).mean() + np.logaddexp(0, on_q).mean())


def _fitted(p: Doubles, q: Doubles, penalty: float) -> DensityRatio:
    """Minimize the mean logistic losses of both sides by Newton's method; the bias is free."""
    x = np.concatenate([p, q])
    centre = (p.mean(axis=0) + q.mean(axis=0)) / 2
    x = np.concatenate([x - centre, np.ones((len(x), 1))], axis=1)
    label = np.repeat([1.0, 0.0], [len(p), len(q)])
    share = np.repeat([1 / len(p), 1 / len(q)], [len(p), len(q)])
    ridge = np.full(x.shape[1], penalty)
    ridge[-1] = 1e-9  # keeps the system solvable if the sides are far apart

    def loss(weights: Doubles) -> float:
        logits = x @ weights
        losses = np.logaddexp(0, logits) - label * logits
        return float(share @ losses + ridge @ weights**2 / 2)

    weights = np.zeros(x.shape[1])
    now = loss(weights)
    for _ in range(STEPS):
        chance = 0.5 * (1 + np.tanh(x @ weights / 2))
        gradient = x.T @ (share * (chance - label)) + ridge * weights
        curvature = (x.T * (share * chance * (1 - chance))) @ x + np.diag(ridge)
        step, size = np.linalg.solve(curvature, gradient), 1.0
        while (following := loss(weights - size * step)) > now and size > 1e-6:
            size /= 2
        gain, now = now - following, min(now, following)
        if gain <= 0:
            break
        weights = weights - size * step
        if gain < TOLERANCE:
            break
    return DensityRatio(weights[:-1], float(weights[-1] - weights[:-1] @ centre))
