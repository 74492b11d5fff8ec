"""Held-out pictures: by the digest of their content, near-duplicates together."""

from __future__ import annotations

import hashlib

from tinyclip_edge.tailoring.split import held_out


def digest(share: float, filler: str = "0") -> str:
    """A SHA-256 whose first 16 digits are this share of all."""
    return f"{int(share * 16**16):016x}".ljust(64, filler)


def test_a_fifth_by_the_digest_alone():
    # 0.05 to 0.95: those below 0.2 are 0.05 and 0.15, of 10; eight at least are held out, but
    # never more than half, so five are.
    few = [digest(0.05 + i / 10) for i in range(10)]
    assert held_out(few, []).tolist() == [True] * 5 + [False] * 5
    # 0.0125 to 0.9875 in 40 steps of 0.025: eight of them are below 0.2.
    many = [digest((i + 0.5) / 40) for i in range(40)]
    assert held_out(many, []).nonzero()[0].tolist() == list(range(8))
    # In another order, and with other pictures beside them, they are the same.
    more = [*reversed(many), *(digest(0.3 + i / 200) for i in range(40))]
    assert sorted(many.index(more[i]) for i in held_out(more, []).nonzero()[0]) == list(range(8))


def test_near_duplicates_stay_on_one_side():
    digests = [digest((i + 0.5) / 40) for i in range(40)]
    # 39 goes with 0, and 30 and 31 go with 2; the digests of 0 and 2 are within a fifth.
    chosen = held_out(digests, [[0, 39], [30, 2, 31]])
    assert chosen.nonzero()[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 30, 31, 39]


def test_chains_of_groups_and_copies_of_a_file_are_one():
    digests = [digest((i + 0.5) / 40) for i in range(40)]
    digests[20] = digests[3]
    chosen = held_out(digests, [[20, 25], [25, 26]])
    assert {3, 20, 25, 26} <= set(chosen.nonzero()[0].tolist())


def test_a_group_of_most_pictures_is_trained_on():
    digests = [digest((i + 0.5) / 40) for i in range(40)]
    chosen = held_out(digests, [list(range(30))])
    # The ten others are taken in the order of their digests until there are eight.
    assert chosen.nonzero()[0].tolist() == list(range(30, 38))


def test_about_a_fifth_of_real_digests():
    digests = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(2000)]
    assert abs(held_out(digests, []).mean() - 0.2) < 0.03  # three standard errors of 0.009
