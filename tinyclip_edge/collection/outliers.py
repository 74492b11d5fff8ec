"""Pictures that resemble none of the labels."""

from __future__ import annotations

import numpy as np

from tinyclip_edge.runtime.protocol import Features

FAR = -3.5  # modified z-score of an outlier (Iglewicz and Hoaglin, 1993)
SIGMA_OF_MAD = 0.6745  # median absolute deviation of a normal distribution, in sigmas


def far_images(nearest: Features) -> list[int]:
    """Return the rows whose cosine with their nearest label, ``[N]``, is far below the others'.

    These are outliers by the modified z-score, with the most distant first.
    """
    centre = np.median(nearest)
    deviation = np.median(np.abs(nearest - centre))
    if deviation == 0:
        return []
    scores = SIGMA_OF_MAD * (nearest - centre) / deviation
    return [int(row) for row in np.argsort(scores, kind="stable") if scores[row] < FAR]
