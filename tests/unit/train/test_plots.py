"""Plots show what events say; a run without masks has its losses only."""

from __future__ import annotations

import pytest
from PIL import Image

from tinyclip_edge.report.plots import write_plots
from tinyclip_edge.train.monitoring.events import EventLog


@pytest.fixture
def events(tmp_path):
    def write(*, masks):
        path = tmp_path / "events.jsonl"
        with EventLog(path) as log:
            log.write("run_start", step=0)
            for step in range(1, 9):
                more = {"sparsity": step / 20, "sparsity_target": 0.3} if masks else {}
                log.write("step", step=step, stage=1 + step // 5, loss=3.0 / step, kl=None, **more)
                tower = {"hidden": 8, "heads": [2, 1], "neurons": [9, 0], "log_alpha": [step] * 20}
                if masks:
                    log.write("gates", step=step, kept=0.5, image=tower, text=tower)
        return path

    return write


@pytest.mark.parametrize(
    ("masks", "names"),
    [(True, ["gates", "loss", "sparsity", "units"]), (False, ["loss"])],
)
def test_what_can_be_plotted_is_plotted(events, tmp_path, masks, names):
    written = write_plots(events(masks=masks), tmp_path / "report")
    assert sorted(path.stem for path in written) == names
    for path in written:
        with Image.open(path) as image:
            assert min(image.size) > 300
            # more than an empty sheet
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20
