"""`bench --record`: what a record holds, what it does not say, and what its reader refuses."""

from __future__ import annotations

import copy
import getpass
import json
import socket
from pathlib import Path

import pytest

from recorded_bundle import change_manifest, encoded
from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation import bench
from tinyclip_edge.evaluation.device_facts import device_facts, public_text
from tinyclip_edge.evaluation.device_record import parse_record, read_record, record_text
from tinyclip_edge.evaluation.energy import EnergyMeter
from tinyclip_edge.evaluation.record import record_of

PROBED = {"cold_start_ms": 400.0, "images_per_second": 50.0, "text_only_mb": 90.0, "peak_mb": 120.0}
# /proc/cpuinfo of a Raspberry Pi 4 under its 64-bit system, one core of four.
PI_CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

Serial\t\t: 10000000abcdef01
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""


@pytest.fixture
def report(recorded_bundle, monkeypatch):
    monkeypatch.setattr(bench, "_probe", lambda *_: PROBED)
    return bench.bench_models([str(recorded_bundle)], rounds=3)


@pytest.fixture
def record(recorded_bundle, report, tmp_path):
    return record_of(recorded_bundle, report, meter=EnergyMeter(tmp_path / "none"))


def test_a_record_has_all_precisions_and_their_golden_check(record, report, recorded_bundle):
    manifest = json.loads((recorded_bundle / "manifest.json").read_text())
    assert record.model.sha256 == manifest["model_hash"]
    assert [row.precision for row in record.precisions] == ["fp32", "int8"]
    for row, measured in zip(record.precisions, report.rows, strict=True):
        assert row.image.p50_ms == pytest.approx(measured.latency.image.median_ms, rel=1e-3)
        assert row.text.p95_ms == pytest.approx(measured.latency.text.p95_ms, rel=1e-3)
        assert (row.cold_start_ms, row.peak_mb, row.rounds) == (400.0, 120.0, 3)
        assert row.bytes == measured.spec.bytes_on_disk and row.energy is None
        assert row.golden.passed and row.golden.image_cosine == pytest.approx(1, abs=1e-6)
    assert record.device.cores >= 1 and record.software.runtime == "onnxruntime"


def test_its_file_reads_as_it_was_written(record, tmp_path):
    path = tmp_path / "device.json"
    path.write_text(record_text(record))
    assert read_record(path) == record


def test_wrong_answers_are_recorded_as_such(recorded_bundle, report, tmp_path):
    golden = json.loads((recorded_bundle / "manifest.json").read_text())["golden"]
    golden["embeddings"]["int8"]["text"] = encoded([[1, 0, 0, 0], [0, 1, 0, 0]])
    change_manifest(recorded_bundle, golden=golden)
    record = record_of(recorded_bundle, report, meter=EnergyMeter(tmp_path / "none"))
    assert [row.golden.passed for row in record.precisions] == [True, False]


def test_no_name_of_a_person_host_or_folder_gets_in(recorded_bundle, monkeypatch, tmp_path):
    secret = tmp_path / "home" / "annabel" / "diary-of-annabel"
    secret.parent.mkdir(parents=True)
    recorded_bundle.rename(secret)
    monkeypatch.setattr(bench, "_probe", lambda *_: PROBED)
    monkeypatch.setattr(socket, "gethostname", lambda: "annabels-pc.lan")
    monkeypatch.setattr(getpass, "getuser", lambda: "annabel")
    monkeypatch.setattr(Path, "home", lambda: secret.parent)
    system = tmp_path / "system"
    (system / "sys/class/dmi/id").mkdir(parents=True)
    (system / "sys/class/dmi/id/product_name").write_text("annabels-pc\n")
    monkeypatch.setattr(
        "tinyclip_edge.evaluation.record.device_facts", lambda: device_facts(system)
    )
    report = bench.bench_models([str(secret)], rounds=3)
    text = record_text(record_of(secret, report, meter=EnergyMeter(tmp_path / "none")))
    assert json.loads(text)["device"]["model"] is None
    for private in ("annabel", "diary", "/", "\\\\"):
        assert private not in text
    assert public_text("annabel") is public_text("PC of annabel") is public_text("\x00 \n") is None
    # Others' words that only resemble a name stay; slashes go.
    assert public_text("annabella 2/3\x00") == "annabella 2 3"


def test_a_raspberry_pi_is_named_by_its_firmware(tmp_path):
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\x00")
    (tmp_path / "proc/cpuinfo").write_text(PI_CPUINFO)
    facts = device_facts(tmp_path)
    assert facts.model == "Raspberry Pi 4 Model B Rev 1.4"
    assert facts.processor == "Arm Cortex-A72" and facts.flags == ["asimd"]
    assert "10000000abcdef01" not in facts.model_dump_json()  # the serial number


def counters(root, **packages):
    for number, (name, (energy, limit)) in enumerate(packages.items()):
        zone = root / f"intel-rapl:{number}"
        zone.mkdir(parents=True, exist_ok=True)
        (zone / "name").write_text(f"{name.replace('_', '-')}\n")
        (zone / "energy_uj").write_text(f"{energy}\n")
        (zone / "max_energy_range_uj").write_text(f"{limit}\n")


def test_energy_is_the_difference_of_all_packages_over_their_limit(tmp_path):
    counters(tmp_path, package_0=(900, 1000), psys=(5, 1000), package_1=(100, 1000))
    meter = EnergyMeter(tmp_path)
    before = meter.read()
    counters(tmp_path, package_0=(200, 1000), psys=(900, 1000), package_1=(150, 1000))
    assert meter.since(before) == 300 + 50  # the first started again at its limit
    calls = []

    def call():
        calls.append(counters(tmp_path, package_0=(999, 1000), package_1=(150, 1000)))

    assert meter.millijoules(call, seconds=0) == pytest.approx(0.799) and len(calls) == 1


def test_counters_that_may_not_be_read_are_no_energy(tmp_path):
    assert not EnergyMeter(tmp_path / "none").is_readable
    counters(tmp_path, package_0=(1, 10))
    (tmp_path / "intel-rapl:0/energy_uj").unlink()
    (tmp_path / "intel-rapl:0/energy_uj").mkdir()  # root may read every file
    assert not EnergyMeter(tmp_path).is_readable


def test_energy_stands_in_the_record(recorded_bundle, report, tmp_path, monkeypatch):
    counters(tmp_path / "power", package_0=(0, 10**9))
    monkeypatch.setattr(EnergyMeter, "since", lambda self, before: 7000)
    monkeypatch.setattr(EnergyMeter.millijoules, "__defaults__", (0.0,))
    record = record_of(recorded_bundle, report, meter=EnergyMeter(tmp_path / "power"))
    assert record.precisions[0].energy.image_mj == 7.0


CHANGES = {
    ("format",): "another",
    ("format_version",): 2,
    ("created_by",): "tinyclip-edge/0.2",
    ("date",): "yesterday",
    ("extra",): 1,
    ("device", "kind"): "toaster",
    ("device", "model"): "/home/annabel",
    ("device", "system"): "x" * 101,
    ("device", "processor"): "<b>fast",
    ("device", "cores"): 0,
    ("device", "cores "): 1,
    ("device", "flags"): ["avx2"] * 65,
    ("device", "hostname"): "annabels-pc",
    ("software", "version"): "1.0 beta",
    ("model", "sha256"): "0" * 63,
    ("model", "image_size"): 64.0,
    ("threads",): True,
    ("precisions",): [],
    ("precisions", 0, "bytes"): "1",
    ("precisions", 0, "image", "p50_ms"): -1.0,
    ("precisions", 0, "image", "p95_ms"): float("nan"),
    ("precisions", 0, "image", "least_ms"): 1e6,
    ("precisions", 0, "golden", "passed"): 1,
    ("precisions", 0, "golden", "text_cosine"): 1.1,
}


@pytest.mark.parametrize(("place", "value"), CHANGES.items())
def test_anything_else_is_refused_with_its_place(record, place, value):
    content = json.loads(record_text(record))
    part = changed = copy.deepcopy(content)
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    assert parse_record(content, "x.json") == record
    with pytest.raises(DataError, match=r"^x\.json: not a device record: ") as caught:
        parse_record(changed, "x.json")
    named = place[:-1] if place[-1] == "least_ms" else place
    assert ".".join(map(str, named)) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_key_is_named(record):
    content = json.loads(record_text(record))
    del content["device"]["cores"]
    with pytest.raises(
        DataError, match=r"x\.json: not a device record: device\.cores: Field required"
    ):
        parse_record(content, "x.json")


def test_the_command_writes_it(command_line, recorded_bundle, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "_probe", lambda *_: PROBED)
    path = tmp_path / "mine.json"
    words = ("bench", recorded_bundle, "--rounds", 3, "--threads", 2)
    code, out, err = command_line(*words, "--record", path, "--json")
    assert code == 0 and len(json.loads(out)["rows"]) == 2 and str(path) in err
    assert read_record(path).threads == 2
    for more, fault in (
        ((recorded_bundle,), "exactly one model, a bundle folder"),
        (("--batch", 2), "single calls"),
    ):
        code, _, err = command_line(*words, *more, "--record", tmp_path / "none.json")
        assert code == 2 and fault in err and not (tmp_path / "none.json").exists()
    code, _, err = command_line("bench", tmp_path, "--record", tmp_path / "none.json")
    assert code == 2 and "exactly one model, a bundle folder" in err
