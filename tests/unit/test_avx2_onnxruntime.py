"""The branch to AVX512 kernels is taken out of a copy, once, or nothing is."""

import pytest

from avx2_onnxruntime import without_avx512

BEFORE, AFTER = b"\x48\xf7\xd0", b"\x48\x8d\x05"
BRANCH = b"\xa8\xe0\x0f\x84\x54\x01\x00\x00"


def test_the_branch_becomes_nothing_and_all_else_stays():
    code = without_avx512(BEFORE + BRANCH + AFTER)
    assert code == BEFORE + b"\xa8\xe0" + b"\x90" * 6 + AFTER


@pytest.mark.parametrize("count", [0, 2])
def test_another_number_of_places_is_refused(count):
    with pytest.raises(SystemExit, match=f"^{count} places look like"):
        without_avx512(BEFORE + BRANCH * count + AFTER)
