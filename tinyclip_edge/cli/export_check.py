"""Check the request of an export before torch is imported."""

from __future__ import annotations

from pathlib import Path

from tinyclip_edge.cli.export_options import OutputOptions, VerificationOptions


def check_request(
    source: str, verification: VerificationOptions, *, corpus: Path | None, output: OutputOptions
) -> None:
    """Raise ModelError, BundleError or DataError for an unusable model, folder or data set.

    A folder that already contains a bundle is refused unless ``output.force`` is set.
    """
    from tinyclip_edge.cli.export_pairs import STARTER_TRAIN
    from tinyclip_edge.evaluation import check_set
    from tinyclip_edge.models import check_model
    from tinyclip_edge.paths import read_lines
    from tinyclip_export.bundle.staging import check_destination

    check_model(source)
    if output.out is not None:
        check_destination(output.out, force=output.force)
    check_set(verification.data)
    if verification.calibration not in (None, STARTER_TRAIN):
        check_set(verification.calibration)
    if corpus is not None:
        read_lines(corpus, "corpus")
