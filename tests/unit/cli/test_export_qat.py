"""export --qat: the model that the finish gives is exported, and the manifest says what it did."""

from types import SimpleNamespace

import pytest

from tinyclip_edge.cli.export import run_export
from tinyclip_edge.cli.export_options import (
    ExportOptions,
    FinishOptions,
    OutputOptions,
    PrecisionOptions,
)
from tinyclip_edge.errors import VerificationError
from tinyclip_edge.evaluation.eval_set import EvalSet
from tinyclip_edge.train.qat.finetune import Finished


def stub(monkeypatch, clip, finish, export):
    """Replace what loads, trains and exports."""
    monkeypatch.setattr(
        "tinyclip_edge.api.exporting.check_request", lambda *_args, **_options: None
    )
    monkeypatch.setattr("tinyclip_edge.models.load_clip", lambda _name: clip)
    monkeypatch.setattr(
        "tinyclip_edge.evaluation.evaluation_set", lambda _data, limit: EvalSet("mine", (), ())
    )
    monkeypatch.setattr("tinyclip_edge.train.qat.source.finish_model", finish)
    monkeypatch.setattr("tinyclip_export.export_bundle", export)


@pytest.mark.parametrize("helped", [True, False])
def test_the_finish_is_reported(monkeypatch, helped):
    original, better = SimpleNamespace(name="m"), SimpleNamespace(name="m")
    requests, exported = [], []

    def finish(clip, source, finishing, **_):
        requests.append((clip, source, finishing.steps))
        scores = [{"t2i_r1": recall, "i2t_r1": recall} for recall in (0.25, 0.5)]
        return Finished(better if helped else original, helped, finishing.steps, 1e-4, *scores)

    stub(
        monkeypatch,
        original,
        finish,
        lambda clip, *_, settings, **__: exported.append((clip, settings)),
    )
    run_export("m", ExportOptions(PrecisionOptions(int8=True), finish=FinishOptions(qat=7)))
    assert requests == [(original, "m", 7)]
    report = {"steps": 7, "lr": 1e-4, "kept": helped}
    report |= {"recall@1_before": 25.0, "recall@1_after": 50.0}
    [(clip, settings)] = exported
    assert (clip, settings.extras.qat_report) == (better if helped else original, report)
    # 4-bit weights are rounded as the training has rounded them.
    assert settings.preset.weight_only.rounding == "nearest"


def test_its_checkpoints_last_until_the_bundle_is_written(monkeypatch, tmp_path):
    clip, folders = SimpleNamespace(name="m"), []

    def finish(clip, source, finishing, *, folder, **_):
        folders.append((folder, folder.is_dir()))
        folder.mkdir(exist_ok=True)
        scores = dict.fromkeys(("t2i_r1", "i2t_r1"), 0.5)
        return Finished(clip, True, finishing.steps, 1e-4, scores, scores)

    def refuse(*_arguments, **_options):
        raise VerificationError("recall@1 fell")

    work = tmp_path / "b.qat"
    options = ExportOptions(
        PrecisionOptions(int8=True),
        finish=FinishOptions(qat=7),
        output=OutputOptions(out=tmp_path / "b"),
    )
    stub(monkeypatch, clip, finish, refuse)
    with pytest.raises(VerificationError):
        run_export("m", options)
    assert work.is_dir()
    stub(monkeypatch, clip, finish, lambda *_arguments, **_options: "report")
    assert run_export("m", options) == "report"
    assert folders == [(work, False), (work, True)]
    assert not work.exists()
