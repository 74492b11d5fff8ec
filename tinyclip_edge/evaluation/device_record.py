"""The record of a benchmark on one device: its schema, and reading its file.

It contains facts about the hardware, versions, figures and the hash of the bundle's weights, but no
name of a user, host, folder or model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from tinyclip_edge.config.section import Section
from tinyclip_edge.errors import DataError, shown
from tinyclip_edge.json_text import read_json_table

TEXT_CHARS = 100  # maximum length of a device's name
_RECORD_BYTES = 1 << 20

# No slashes, so that it contains no path, and no characters that are markup in HTML.
TEXT_SIGNS = r"\w ()@.,:+&'®™-"
DeviceText = Annotated[str, StringConstraints(pattern=f"^[{TEXT_SIGNS}]+$", max_length=TEXT_CHARS)]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.+-]+$", max_length=40)]
Day = Annotated[str, StringConstraints(pattern=r"^20\d\d-[01]\d-[0-3]\d$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Milliseconds = Annotated[float, Field(gt=0, le=1e7)]
Megabytes = Annotated[float, Field(gt=0, le=1e7)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Parameters = Annotated[int, Field(ge=0, le=10**12)]
Cosine = Annotated[float, Field(ge=-1.001, le=1.001)]


class DeviceFacts(Section):
    """The device on which the figures were measured."""

    kind: Literal["computer", "browser"] = Field(description="Where the towers ran.")
    model: DeviceText | None = Field(description="The device, as its firmware names it.")
    processor: DeviceText | None = Field(description="The processor, as it names itself.")
    architecture: Word | None = Field(description="For example x86_64 or aarch64.")
    system: DeviceText = Field(description="Operating system, without version.")
    cores: Annotated[int, Field(ge=1, le=4096)] = Field(description="Logical cores.")
    memory_mb: Megabytes | None = Field(description="Memory, in 10^6 bytes.")
    flags: Annotated[list[Word], Field(max_length=64)] = Field(
        description="The processor's instruction sets that affect speed."
    )


class Software(Section):
    """The software that ran the towers."""

    runtime: Literal["onnxruntime", "onnxruntime-web"] = Field(description="Runtime.")
    version: Word = Field(description="Version of the runtime.")
    interpreter: DeviceText = Field(description="Python or browser, with version.")


class MeasuredModel(Section):
    """The bundle, identified by its weights and sizes instead of its name."""

    sha256: Sha256 = Field(description="`model_hash` of the bundle.")
    image_parameters: Parameters = Field(description="Parameters of the image tower.")
    text_parameters: Parameters = Field(
        description="Parameters of the text tower, without the token table."
    )
    token_parameters: Parameters = Field(description="Parameters of the token table.")
    image_size: Count = Field(description="Pixels, square.")
    context_length: Count = Field(description="Largest number of tokens.")
    embedding_dim: Count = Field(description="Length of an embedding.")


class Times(Section):
    """Milliseconds of single calls, preprocessing and tokenization included."""

    p50_ms: Milliseconds = Field(description="Median of the calls.")
    p95_ms: Milliseconds = Field(description="95th percentile.")
    least_ms: Milliseconds = Field(description="Shortest call.")

    @model_validator(mode="after")
    def _in_order(self) -> Times:
        if not self.least_ms <= self.p50_ms <= self.p95_ms:
            raise ValueError("least_ms, p50_ms and p95_ms must be in ascending order")
        return self


class Energy(Section):
    """Energy of all processor packages over one call, idle power included."""

    image_mj: Annotated[float, Field(ge=0, le=1e9)] = Field(description="Millijoules per image.")
    text_mj: Annotated[float, Field(ge=0, le=1e9)] = Field(description="Millijoules per text.")


class GoldenCheck(Section):
    """The bundle's golden vectors, replayed on the device."""

    passed: bool = Field(description="Whether the device reproduces the vectors.")
    image_cosine: Cosine = Field(description="Lowest cosine to a recorded image embedding.")
    text_cosine: Cosine = Field(description="Lowest cosine to a recorded text embedding.")
    same_ids: bool | None = Field(description="Whether token ids are equal; null: not compared.")
    same_pixels: bool | None = Field(description="Whether pixels are equal; null: not compared.")


class MeasuredPrecision(Section):
    """One precision of the bundle."""

    precision: Word = Field(description="Name of the precision.")
    device: Word = Field(description="A value of `--device`; in browsers wasm or webgpu.")
    bytes: Annotated[int, Field(ge=1, le=10**12)] = Field(description="Size of the files it loads.")
    rounds: Count = Field(description="Calls that were timed.")
    cold_start_ms: Milliseconds = Field(
        description="Process start to first text embedding; in browsers from the first byte read."
    )
    image: Times = Field(description="A decoded picture of 256 x 256 pixels.")
    text: Times = Field(description="A caption of 4 to 7 tokens.")
    images_per_second: Annotated[float, Field(gt=0, le=1e7)] | None = Field(
        description="In batches of 32; null: not measured."
    )
    text_mb: Megabytes | None = Field(description="Peak memory after the first text.")
    peak_mb: Megabytes | None = Field(description="Peak memory with both towers.")
    energy: Energy | None = Field(description="Null if the system does not report it.")
    golden: GoldenCheck = Field(description="Whether its outputs are correct.")


class DeviceRecord(Section):
    """A bundle's figures on one device, in all its precisions."""

    format: Literal["tinyclip-edge-device-record"] = Field(description="Marks the file.")
    format_version: Literal[1] = Field(description="Version of this schema.")
    created_by: DeviceText = Field(description="tinyclip-edge and its version.")
    date: Day = Field(description="Day of the measurement.")
    device: DeviceFacts = Field(description="The device.")
    software: Software = Field(description="The software that ran the towers.")
    model: MeasuredModel = Field(description="The bundle.")
    threads: Annotated[int, Field(ge=1, le=4096)] = Field(description="Threads of each tower.")
    precisions: Annotated[list[MeasuredPrecision], Field(min_length=1, max_length=64)] = Field(
        description="One entry for each precision and device."
    )


def parse_record(content: object, source: str) -> DeviceRecord:
    """Return the record in JSON values; raise a DataError that names the key and the source."""
    try:
        return DeviceRecord.model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(map(str, fault["loc"])) or "it"
        value = "" if fault["type"] == "missing" else f" ({shown(fault['input'])})"
        raise DataError(f"{source}: not a device record: {key}{value}: {fault['msg']}") from None


def read_record(path: Path) -> DeviceRecord:
    """Read a file written by `bench --record` or the browser page; raise DataError for others."""
    return parse_record(read_json_table(path, DataError, limit=_RECORD_BYTES), str(path))


def record_text(record: DeviceRecord) -> str:
    """Return the text of a record's file."""
    return record.model_dump_json(indent=2) + "\n"
