"""Options of ``export`` that are refused, and the pairs it calibrates and verifies on."""

from __future__ import annotations

import pytest

from tinyclip_edge.api.export_pairs import _split as split
from tinyclip_edge.api.export_pairs import export_pairs
from tinyclip_edge.cli.export_options import VerificationOptions
from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation import EvalSet


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--precision", "int9"), "did you mean 'int8'"),
        (("--target", "x87"), "did you mean 'x86'"),
        (("--token-bits", "5"), "8, 4, 3 or 32 bits, not 5"),
        (("--int8", "--calibration", "starter:vall"), "did you mean 'val'"),
    ],
)
def test_bad_options_are_one_line(options, words, toy_teacher_folder, command_line, tmp_path):
    extra = ("--static",) if "--calibration" in options else ()
    code, out, err = command_line(
        "export", toy_teacher_folder, *options, *extra, "--limit", 12, "--out", tmp_path / "b"
    )
    assert (code, out) == (2, "")
    assert words in err.splitlines()[-1]
    assert not (tmp_path / "b").exists()


def test_small_sets_are_used_for_both_and_say_so():
    def of(count):
        return EvalSet(
            "mine", tuple(b"%d" % i for i in range(count)), tuple(map(str, range(count)))
        )

    for count, limit, verified, calibrated, apart in (
        (20, 1000, 20, 20, False),  # a quarter is five: too few
        (100, 1000, 75, 25, True),
        (700, 500, 500, 200, True),
        (5000, 1000, 1000, 512, True),
    ):
        pairs, supply = split(of(count), limit)
        supplied = supply()
        assert (len(pairs.texts), len(supplied.texts), supplied.disjoint) == (
            verified,
            calibrated,
            apart,
        )
        if apart:
            assert not set(pairs.texts) & set(supplied.texts)
        assert [int(text) for text in supplied.texts] == [int(image) for image in supplied.images]
    with pytest.raises(DataError, match="did you mean"):
        export_pairs(VerificationOptions(data="starter:vall", limit=10), calibrated=True)
