"""The page of benchmark records: a table and a plot of all files in benchmarks/devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from tinyclip_edge.config.reference import ConfigKey, schema_keys
from tinyclip_edge.evaluation.device_record import DeviceRecord, MeasuredPrecision, read_record
from tinyclip_edge.units import three_digits

RECORDS = Path(__file__).parents[1] / "benchmarks/devices"
PLOT = "device-records.svg"
# Names of bundles that anyone can make, by hash.
MODELS = {"a327579791cc9f2fbdda1c3fe164cacd50209aabc980a57e652acc8a1dc22e6f": "starter teacher"}
_COLUMNS = (
    *("device", "runtime", "model", "precision", "image ms", "text ms", "cold start", "MB"),
    *("mJ an image", "golden"),
)
_COLOURS = ("#3b6ea5", "#d98c3f", "#5f9e6e", "#8d6ab8", "#b8535c", "#7a7a7a")
_LABEL, _BAR, _FIGURE, _ROW, _HEAD = 330, 330, 60, 20, 30  # pixels of the plot
_INTRO = """# Devices

Bundles in all their precisions on every device that someone has measured, one file per device in
`benchmarks/devices/`. [Add yours](../howto/raspberry-pi.md) with one command.

"""
_LEGEND = """
ms: median of single calls (95th percentile). Cold start: process start to first text embedding.
MB: peak memory with both towers. Golden: whether the device reproduces the embeddings that the
bundle recorded when it was exported. Figures of different models cannot be compared.
"""
_SCHEMA = """
## A record

JSON with exactly these keys; `null` if the device does not report the value. A record never
contains the name of a user, host, folder or model.

"""

# Instruction sets that decide the speed of int8, the best first.
INT8_FLAGS = {"avx512_vnni": ", VNNI", "avx_vnni": ", VNNI", "avx2": ", AVX2"}


def records() -> list[tuple[str, DeviceRecord]]:
    """Return the name and content of each file; raise DataError if one is not a record."""
    return [(path.stem, read_record(path)) for path in sorted(RECORDS.glob("*.json"))]


def page() -> str:
    """Return the page."""
    rows = sorted(_rows(), key=lambda row: (row[0], row[3].image.p50_ms))
    table = "\n".join([
        f"| {' | '.join(_COLUMNS)} |",
        f"|{' --- |' * len(_COLUMNS)}",
        *(_line(*row) for row in rows),
    ])  # fmt: skip
    schema = "\n".join([
        "| key | type | description |",
        "| --- | --- | --- |",
        *(_key(key) for key in schema_keys(DeviceRecord)),
    ])  # fmt: skip
    plot = f"\n![Milliseconds per image, of each device and precision]({PLOT})\n"
    return f"{_INTRO}{table}\n{_LEGEND}{plot}{_SCHEMA}{schema}\n"


def plot() -> str:
    """Return the plot: a bar for each device and precision, in milliseconds per image."""
    rows = sorted(_rows(), key=lambda row: (row[0], row[3].image.p50_ms))
    longest = max((row.image.p50_ms for *_, row in rows), default=1.0)
    names = list(dict.fromkeys(row.precision for *_, row in rows))
    height = _HEAD + _ROW * len(rows)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LABEL + _BAR + _FIGURE} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="100%" height="100%" fill="#fff"/><text x="{_LABEL}" y="18">ms per image, '
        "median</text>",
        *(_bar(position, row, longest, names) for position, row in enumerate(rows)),
        "</svg>\n",
    ])  # fmt: skip


def _rows() -> Iterator[tuple[str, str, DeviceRecord, MeasuredPrecision]]:
    """Yield model, device, record and precision."""
    for _, record in records():
        model = MODELS.get(record.model.sha256) or record.model.sha256[:12]
        for row in record.precisions:
            yield model, _device(record), record, row


def _device(record: DeviceRecord) -> str:
    facts = record.device
    parts = [facts.model, facts.processor]
    named = ", ".join(part for part in parts if part) or facts.system
    vector = next((name for flag, name in INT8_FLAGS.items() if flag in facts.flags), "")
    return f"{named} ({facts.cores} cores{vector})"


def _line(model: str, device: str, record: DeviceRecord, row: MeasuredPrecision) -> str:
    software = record.software
    threads = f"{record.threads} thread{'s' * (record.threads > 1)}"
    where = "" if row.device == "cpu" else f", {row.device}"
    cells = (
        device,
        f"{software.runtime} {software.version}, {software.interpreter}, {threads}{where}",
        f"{model}, {record.model.image_size} px",
        row.precision,
        f"{three_digits(row.image.p50_ms)} ({three_digits(row.image.p95_ms)})",
        f"{three_digits(row.text.p50_ms)} ({three_digits(row.text.p95_ms)})",
        f"{three_digits(row.cold_start_ms / 1000)} s",
        "–" if row.peak_mb is None else f"{row.peak_mb:,.0f}",
        "–" if row.energy is None else three_digits(row.energy.image_mj),
        "yes" if row.golden.passed else "**no**",
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _bar(
    position: int,
    row: tuple[str, str, DeviceRecord, MeasuredPrecision],
    longest: float,
    names: Sequence[str],
) -> str:
    model, device, _, measured = row
    top, ms = _HEAD + _ROW * position, measured.image.p50_ms
    width = max(1, round(_BAR * ms / longest))
    colour = _COLOURS[names.index(measured.precision) % len(_COLOURS)]
    label = escape(f"{device}, {measured.precision}")
    return (
        f"<g><title>{escape(model)}</title>"
        f'<text x="{_LABEL - 8}" y="{top + 13}" text-anchor="end">{label}</text>'
        f'<rect x="{_LABEL}" y="{top + 3}" width="{width}" height="14" fill="{colour}"/>'
        f'<text x="{_LABEL + width + 5}" y="{top + 13}">{three_digits(ms)}</text></g>'
    )


def _key(entry: ConfigKey) -> str:
    return f"| `{entry.key}` | {entry.type.replace('|', chr(92) + '|')} | {entry.description} |"
