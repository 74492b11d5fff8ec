"""Every table that a command prints has its figures and names whole in 80 columns."""

from __future__ import annotations

import io
import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tinyclip_edge.api.bundles import BundleCheck
from tinyclip_edge.cli.run_plan import plan_table
from tinyclip_edge.evaluation.bench import BenchReport, BenchRow
from tinyclip_edge.evaluation.classify import ZeroShot
from tinyclip_edge.evaluation.compare import Comparison, ComparisonRow
from tinyclip_edge.evaluation.latency import Latency, ModelLatency
from tinyclip_edge.evaluation.report import RETRIEVAL, ZERO_SHOT, EvalReport, EvalRow
from tinyclip_edge.evaluation.resampling import PictureHits, Resampling
from tinyclip_edge.evaluation.retrieve import HundredWay, Retrieval
from tinyclip_edge.evaluation.standings import RankedSet, ScoredModel, standings_of
from tinyclip_edge.families.table import shipped_table
from tinyclip_edge.inheritance.report import ORIGINS, InheritanceReport, TowerReport
from tinyclip_edge.metrics import METRICS
from tinyclip_edge.models import zoo_table
from tinyclip_edge.precisions import PRECISIONS
from tinyclip_edge.runtime.golden import Replay
from tinyclip_edge.runtime.protocol import EmbedderSpec
from tinyclip_edge.train.distillation import RunResult
from tinyclip_edge.train.preflight.dry_run import RunPlan, StagePlan
from tinyclip_edge.train.preflight.step0 import StepZeroMetrics, StepZeroReport
from tinyclip_edge.train.run_list import RunList, RunSummary
from tinyclip_export.export_report import ExportReport
from tinyclip_export.sensitivity.pareto import search_table

NAME = "TinyCLIP-ViT-40M-32-Text-19M"
LATENCY = ModelLatency(*[Latency(1234.56, 1200.1, 1300.2)] * 2, batch=64, threads=16, rounds=1000)
PERFECT = {1: 0.551, 5: 1.0, 10: 1.0}
ERRORS = dict.fromkeys((1, 5, 10), 0.123)
RETRIEVED = Retrieval(123_456, 654_321, PERFECT, PERFECT, ERRORS, ERRORS)
ROW = EvalRow("test_concepts", RETRIEVED, HundredWay(123_456, 100, 10, 1.0, 0.01))
ACCURACIES = dict.fromkeys(METRICS, 1.0)


def spec(precision="int8"):
    return EmbedderSpec(
        224, 512, 1_151_277_313, 25_296_896, 4_605_123_456, "onnxruntime", precision
    )


def bench():
    rows = [BenchRow(f"{NAME} {precision}", spec(), LATENCY, 12_345.0, 1234.0, 12_345.0, 12_345.0)
            for precision in PRECISIONS]  # fmt: skip
    return BenchReport(tuple(rows))


def retrieval():
    return EvalReport(NAME, spec(), RETRIEVAL, "starter:test_concepts", ("{}",), (ROW,))


def zero_shot():
    row = EvalRow("all", zero_shot=ZeroShot(1_234_567, 21_841, 1.0, 1.0, 0.123, 0.123))
    return EvalReport(NAME, spec(), ZERO_SHOT, "imagenet-val.tar", ("{}",), (row,))


def comparison():
    rows = [ComparisonRow(label, NAME, spec(), (ROW,), LATENCY)
            for label in ("teacher", "student", "student int8")]  # fmt: skip
    return Comparison(tuple(rows), "starter:test_style")


def ranked():
    models = [ScoredModel(f"{NAME}-{number}", NAME, spec(), (ROW,) * 5,
                            (PictureHits(np.ones((1, 9)), np.ones((1, 9))),) * 5)
              for number in range(8)]  # fmt: skip
    sets = [RankedSet("starter:test_concepts", RETRIEVAL, 1_234_567, 654_321)] * 5
    return standings_of(models, sets, resampling=Resampling(100))


def check():
    replays = [Replay(name, 0.99999, 0.99999, 0.9, 1234.56, 1234.56, False, False)
               for name in PRECISIONS]  # fmt: skip
    return BundleCheck(Path(f"bundles/{NAME}"), NAME, 12, tuple(replays))


def runs():
    run = RunSummary(Path(f"{NAME}-2"), "finished", 1_234_567, 1_234_567,
                     ACCURACIES, 12_345_678_901, datetime(2026, 12, 31, 23, 59))  # fmt: skip
    return RunList(Path("runs"), (run,))


def inherited():
    counts = dict.fromkeys(ORIGINS, 151_277_313)
    tower = TowerReport(tuple(range(24)), dict.fromkeys(ORIGINS, 400), counts)
    return InheritanceReport("importance", tower, tower, tower, ())


def step_zero():
    metrics = StepZeroMetrics("starter:val", 10_000, 50_000, ACCURACIES, ACCURACIES, 12.345, 1.0,
                              100.0, 100.0)  # fmt: skip
    counts = {tower: {"teacher": 9, "student": 5} for tower in ("image", "text", "shared")}
    return StepZeroReport(NAME, inherited(), counts, metrics)


def run_result():
    return RunResult(Path("runs/x"), Path(f"runs/{NAME}/student"), 1_234_567, 99_999.0, 0, None,
                     {5: ACCURACIES}, ACCURACIES)  # fmt: skip


def exported():
    tower = {"cosine_min": 0.99999, "ms": 1234.56, "times_faster": 12.3}
    ranking = {"recall@1": 100.0, "recall@1_drop": -12.34, "recall@1_stderr": 1.41,
               "top1_agreement": 100.0}  # fmt: skip
    figures = {"image": tower, "text": tower, "ranking": ranking, "checks": {"ranking": None}}
    verification = {"pairs": 10_000, "reference_recall@1": 100.0, "max_drop": 0.5,
                    "precisions": dict.fromkeys(PRECISIONS, figures)}  # fmt: skip
    files = dict.fromkeys(PRECISIONS, 4605123456)
    towers = {tower: {name: name for name in PRECISIONS} for tower in ("image", "text")}
    return ExportReport(
        Path(f"bundles/{NAME}"),
        NAME,
        tuple(PRECISIONS),
        towers,
        verification,
        files=files,
    )


class Searched:
    def tables(self):
        point = {"kept_float": 100, "smooth": {"image": 0.55, "text": 0.55}, "bytes": 4.6e9,
                 "ms": 1234.56, "drop": -12.34, "stderr": 12.34, "overlap": 100.0, "kl": 0.12345,
                 "chosen": False, "proposed": True}  # fmt: skip
        layers = [{"tower": "image", "node": "/visual/blocks.11/mlp/c_fc/MatMul"}]
        return [search_table({"precision": "static", "pairs": 512, "layers": layers,
                              "pareto": [point]})]  # fmt: skip


class Planned:
    def tables(self):
        stages = [
            StagePlan(number, NAME, None, 87_849_728, 63_428_096, 1_234_567, 12_345_678_901, 1e-4,
                      123_456, 99_999_999_999, 9_999_999_999, 1.5e9, 1.5e9)
            for number in (1, 2, 3)
        ]  # fmt: skip
        plan = RunPlan(
            NAME, "ViT-B-16/laion2b", 149_620_737, 598_482_948, 32_768, 8, 4096, tuple(stages)
        )
        return [plan_table(plan, 114.0)]


class Listed:
    def tables(self):
        return [zoo_table(), shipped_table().table()]


MADE = (bench, retrieval, zero_shot, comparison, ranked, check, runs, step_zero, run_result,
        exported, Searched, Planned, Listed)  # fmt: skip


def words(table):
    """Every word of a table's header and figures, without markup; long names may be broken."""
    cells = [cell for column in table.columns for cell in (column.header, *column.cells)]
    cells = cells[1 + len(table.rows) :]
    text = " ".join(re.sub(r"\[/?\w*\]", "", str(cell)) for cell in cells)
    return set(text.split())


@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__.lower())
def test_nothing_is_cut_or_broken_in_80_columns(make):
    for table in make().tables():
        page = io.StringIO()
        Console(file=page, width=80, color_system=None).print(table)
        lines = page.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        assert "…" not in page.getvalue()
        assert words(table) <= set(re.sub(r"[│┃|]", " ", page.getvalue()).split())


def test_the_text_of_a_report_is_no_display_of_a_notebook(monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    text = step_zero().text()
    assert "Inherited weights" in text and "parameters: 15 of the teacher's 27" in text
