"""export --qat: the model that the finish gives is exported, and the manifest says what it did."""

from types import SimpleNamespace

import pytest

from tinyclip_edge.cli.export import run_export
from tinyclip_edge.cli.export_options import ExportOptions, FinishOptions, PrecisionOptions
from tinyclip_edge.evaluation.eval_set import EvalSet
from tinyclip_edge.train.qat.finetune import Finished


@pytest.mark.parametrize("helped", [True, False])
def test_the_finish_is_told(monkeypatch, helped):
    given, better = SimpleNamespace(name="m"), SimpleNamespace(name="m")
    asked, exported = [], []

    def finish(clip, source, finishing, **_):
        asked.append((clip, source, finishing.steps))
        scores = [{"t2i_r1": recall, "i2t_r1": recall} for recall in (0.25, 0.5)]
        return Finished(better if helped else given, helped, finishing.steps, 1e-4, *scores)

    monkeypatch.setattr("tinyclip_edge.cli.export.check_request", lambda *_args, **_options: None)
    monkeypatch.setattr("tinyclip_edge.models.load_clip", lambda _name: given)
    monkeypatch.setattr(
        "tinyclip_edge.evaluation.evaluation_set", lambda _data, limit: EvalSet("mine", (), ())
    )
    monkeypatch.setattr("tinyclip_edge.train.qat.source.finish_model", finish)
    monkeypatch.setattr(
        "tinyclip_export.export_bundle",
        lambda clip, *_, settings, **__: exported.append((clip, settings.extras.qat_report)),
    )
    run_export("m", ExportOptions(PrecisionOptions(int8=True), finish=FinishOptions(qat=7)))
    assert asked == [(given, "m", 7)]
    told = {"steps": 7, "lr": 1e-4, "kept": helped}
    told |= {"recall@1_before": 25.0, "recall@1_after": 50.0}
    assert exported == [(better if helped else given, told)]
