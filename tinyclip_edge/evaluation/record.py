"""Measure a bundle on this device, in all its precisions, as a record that others can compare."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from tinyclip_edge import __version__
from tinyclip_edge.errors import BundleError
from tinyclip_edge.evaluation.bench import BenchReport, BenchRow
from tinyclip_edge.evaluation.device_facts import device_facts
from tinyclip_edge.evaluation.device_record import (
    DeviceRecord,
    Energy,
    GoldenCheck,
    MeasuredModel,
    MeasuredPrecision,
    Software,
    Times,
    record_text,
)
from tinyclip_edge.evaluation.energy import EnergyMeter
from tinyclip_edge.evaluation.latency import Latency
from tinyclip_edge.evaluation.probe import timed_picture
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.golden import compare


def record_of(
    bundle: str | Path,
    report: BenchReport,
    *,
    device_options: Mapping[str, str] | None = None,
    meter: EnergyMeter | None = None,
) -> DeviceRecord:
    """Return the record of a bundle that ``bench_models`` has measured alone, with batch 1.

    The bundle's golden vectors are replayed, and energy is measured if ``meter`` (by default RAPL)
    can be read. Raises BundleError for a bundle without golden vectors.
    """
    manifest = Manifest.read(bundle)
    meter = meter or EnergyMeter()
    parameters = manifest.parameters
    return DeviceRecord(
        format="tinyclip-edge-device-record",
        format_version=1,
        created_by=f"tinyclip-edge {__version__}",
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        device=device_facts(),
        software=Software(
            runtime="onnxruntime",
            version=ort.__version__,
            interpreter=f"Python {platform.python_version()}",
        ),
        model=MeasuredModel(
            sha256=manifest.model_hash,
            image_parameters=parameters["image"],
            text_parameters=parameters["text"],
            token_parameters=parameters["token_embedding"],
            image_size=manifest.image_size,
            context_length=manifest.context_length,
            embedding_dim=manifest.embedding_dim,
        ),
        threads=report.rows[0].latency.threads,
        precisions=[_measured(bundle, row, device_options, meter) for row in report.rows],
    )


def write_record(path: Path, record: DeviceRecord) -> None:
    """Write a record's file; raise DataError if that is not possible."""
    with file_written_aside(path) as file:
        file.write(record_text(record).encode())


def _measured(
    bundle: str | Path,
    row: BenchRow,
    device_options: Mapping[str, str] | None,
    meter: EnergyMeter,
) -> MeasuredPrecision:
    clip = EdgeCLIP.load(
        bundle,
        precision=row.spec.precision,
        threads=row.latency.threads,
        device=row.device,
        device_options=device_options,
    )
    if not clip.manifest.golden:
        raise BundleError(f"bundle {clip.folder} has no golden vectors; export it again")
    replay = compare(clip)
    return MeasuredPrecision(
        precision=row.spec.precision,
        device=row.device,
        bytes=row.spec.bytes_on_disk,
        rounds=row.latency.rounds,
        cold_start_ms=_rounded(row.cold_start_ms),
        image=_times(row.latency.image),
        text=_times(row.latency.text),
        images_per_second=_rounded(row.images_per_second),
        text_mb=None if row.text_only_mb is None else _rounded(row.text_only_mb),
        peak_mb=None if row.peak_mb is None else _rounded(row.peak_mb),
        energy=_energy(clip, meter),
        golden=GoldenCheck(
            passed=not replay.failures,
            image_cosine=round(replay.image_cosine, 7),
            text_cosine=round(replay.text_cosine, 7),
            same_ids=replay.same_ids,
            same_pixels=replay.same_pixels,
        ),
    )


def _times(latency: Latency) -> Times:
    return Times(
        p50_ms=_rounded(latency.median_ms),
        p95_ms=_rounded(latency.p95_ms),
        least_ms=_rounded(latency.min_ms),
    )


def _rounded(value: float) -> float:
    """Round to four significant digits, more than repeated measurements agree in."""
    return float(f"{value:.4g}")


def _energy(clip: EdgeCLIP, meter: EnergyMeter) -> Energy | None:
    if not meter.is_readable:
        return None
    picture = timed_picture()
    return Energy(
        image_mj=_rounded(meter.millijoules(lambda: clip.encode_image([picture]))),
        text_mj=_rounded(meter.millijoules(lambda: clip.encode_text(["a photo of a cat"]))),
    )
