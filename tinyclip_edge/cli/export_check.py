"""What an export is given, checked as far as that goes without importing torch."""

from __future__ import annotations

from pathlib import Path


def check_request(
    source: str,
    out: Path | None,
    data: str,
    calibration: str | None,
    corpus: Path | None,
    *,
    force: bool,
) -> None:
    """Raise ModelError, BundleError or DataError for what is not there, before torch is imported.

    A folder for ``out`` that is in use is refused unless ``force``.
    """
    from tinyclip_edge.cli.export_pairs import STARTER_TRAIN
    from tinyclip_edge.evaluation import check_set
    from tinyclip_edge.models import check_model
    from tinyclip_export.bundle.label_classifier import read_lines
    from tinyclip_export.bundle.staging import check_destination

    check_model(source)
    if out is not None:
        check_destination(out, force=force)
    check_set(data)
    if calibration not in (None, STARTER_TRAIN):
        check_set(calibration)
    if corpus is not None:
        read_lines(corpus, "corpus")
