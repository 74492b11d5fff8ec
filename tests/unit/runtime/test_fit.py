"""A bundle of another target is named, with what it costs here."""

import dataclasses

import pytest

from tinyclip_edge.config.preset import load_preset, preset_names
from tinyclip_edge.runtime import fit
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.devices import PROVIDERS, Device
from tinyclip_edge.targets import TARGETS, Target

NPU = Target(description="a chip", devices=("qnn",), elsewhere="it is slower there")


@pytest.fixture
def manifest(monkeypatch):
    monkeypatch.setattr(fit, "TARGETS", {"npu": NPU})
    content = {field.name: "" for field in dataclasses.fields(Manifest)}
    return Manifest(**{**content, "name": "photos", "target": {"name": "npu"}})


def test_on_its_own_device_nothing_is_said(manifest):
    assert fit.misfit(manifest, Device("qnn")) is None
    assert fit.misfit(dataclasses.replace(manifest, target={}), Device()) is None


def test_elsewhere_target_device_and_cost_are_named(manifest):
    assert fit.misfit(manifest, Device()) == (
        "bundle photos was made for target npu (a chip), device qnn, but is open on cpu: it is "
        "slower there"
    )


@pytest.mark.parametrize(
    ("target", "kind", "said"),
    [
        ("x86-vnni", "x86-avx2", "its int8 takes 1.2 times as long here as with --target x86-avx2"),
        ("x86-vnni-single", "x86-vnni", None),
        ("arm64", "x86", "its int8 takes 1.2 times as long"),
        (
            "x86-avx2",
            "x86-vnni",
            "no time, but its int8 weights are coarser than with --target x86",
        ),
        ("x86-avx2", "x86-avx2", None),
        ("x86", "x86-vnni", None),
        ("x86", "arm64", "coarser than with --target arm64"),
        ("browser", "arm64", None),
        ("x86-vnni", None, None),  # a processor of which nothing is known
    ],
)
def test_the_processor_is_compared_too(monkeypatch, manifest, target, kind, said):
    monkeypatch.setattr(fit, "TARGETS", TARGETS)
    monkeypatch.setattr(fit, "processor", lambda: kind)
    note = fit.misfit(dataclasses.replace(manifest, target={"name": target}), Device())
    if said is None:
        assert note is None
        return
    assert note.startswith(f"bundle photos was made for target {target} (")
    assert f", but this processor is {kind}; that costs: " in note
    assert said in note


def test_a_target_of_a_newer_version_is_named(manifest):
    newer = dataclasses.replace(manifest, target={"name": "toaster"})
    assert "target 'toaster', which this tinyclip-edge does not know" in fit.misfit(newer, Device())


def test_table_presets_and_devices_agree():
    assert sorted(TARGETS) == preset_names()
    for name, target in TARGETS.items():
        assert load_preset(name).target == name
        assert set(target.devices) <= set(PROVIDERS)
        kinds = {*target.processors, *target.other_processors}
        assert kinds <= {"x86", "x86-avx2", "x86-vnni", "arm64"}
