"""Check the request of an export before torch is imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyclip_edge.api.exporting import VerificationRequest


def check_request(
    source: str,
    verification: VerificationRequest,
    *,
    corpus: Path | None,
    out: Path | None,
    force: bool,
) -> None:
    """Raise ModelError, BundleError or DataError for an unusable model, folder or data set.

    A folder that already contains a bundle is refused without ``force``.
    """
    from tinyclip_edge.api.export_pairs import STARTER_TRAIN
    from tinyclip_edge.evaluation import check_set
    from tinyclip_edge.models import check_model
    from tinyclip_edge.paths import read_lines
    from tinyclip_export.bundle.staging import check_destination

    check_model(source)
    if out is not None:
        check_destination(out, force=force)
    check_set(verification.data)
    if verification.calibration not in (None, STARTER_TRAIN):
        check_set(verification.calibration)
    if corpus is not None:
        read_lines(corpus, "corpus")
