"""Where a finish takes teacher and pairs from, and which rounding it is for."""

from __future__ import annotations

import pytest

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import RunConfig, dump_config
from tinyclip_edge.config.preset import ExportPreset
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.models import create_student, load_clip
from tinyclip_edge.train.qat.fake_quant import Rounding
from tinyclip_edge.train.qat.finetune import Finishing
from tinyclip_edge.train.qat.source import finish_model, rounding_for, run_folder
from toy_runs import STUDENT, Watcher


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> str:
    return str(write_shard(tmp_path_factory.mktemp("pairs") / "toy.tar", toy_samples()))


def test_a_run_brings_teacher_and_pairs(tmp_path, pairs, toy_teacher_folder):
    sections = {
        "teacher": {"model": str(toy_teacher_folder)},
        "student": {"model": STUDENT},
        "data": {"train": pairs, "workers": 1},
        "optim": {"lr": 2e-3, "batch_size": 16},
        "run": {"device": "cpu"},
    }
    (tmp_path / "student").mkdir()
    (tmp_path / "config.yaml").write_text(dump_config(RunConfig.model_validate(sections)))
    student = create_student(STUDENT, load_clip(str(toy_teacher_folder)))
    watcher = Watcher()
    for source in (tmp_path, tmp_path / "student"):
        result = finish_model(
            student,
            str(source),
            Finishing(1),
            train=None,
            val=pairs,
            folder=tmp_path / f"{source.name}.qat",
            observer=watcher,
        )
        assert result.lr == pytest.approx(2e-4)
    assert any(f"teacher {toy_teacher_folder.name}" in text for text in watcher.messages)
    assert watcher.reports[0].values["kl"] > 1e-2  # the student is random: not its own teacher
    named = "fine-tuned for int8 in 1 steps" in result.clip.name
    assert named is result.helped


def test_another_model_is_its_own_teacher_on_passed_pairs(tmp_path, pairs, toy_teacher_folder):
    clip, watcher = load_clip(str(toy_teacher_folder)), Watcher()
    source = str(toy_teacher_folder)
    still = Finishing(1, 1e-9, None, None)
    finish_model(
        clip, source, still, train=pairs, val=pairs, folder=tmp_path / "a", observer=watcher
    )
    # 48 concepts are fewer than the batch; without rounding it has nothing to learn.
    assert watcher.reports[0].values["kl"] == pytest.approx(0, abs=1e-4)
    with pytest.raises(ConfigError, match=r"is not a run.*pass some with --qat-data"):
        finish_model(
            clip, source, still, train=None, val=pairs, folder=tmp_path / "b", observer=watcher
        )


def test_a_run_is_located_from_its_student_too(tmp_path):
    (tmp_path / "config.yaml").touch()
    for name in ("", "student", "best"):
        assert run_folder(str(tmp_path / name)) == tmp_path
    assert run_folder(str(tmp_path / "stages")) is None
    assert run_folder("ViT-B-32/laion2b_s34b_b79k") is None


@pytest.mark.parametrize(
    ("precisions", "settings", "expected"),
    [
        (("fp32", "int8"), {}, Rounding("overflow_safe", "8 bit")),
        (("int8",), {"int8": {"weight_range": "8 bit"}}, Rounding("8 bit", "8 bit")),
        (("int8",), {"int8": {"token_table": "4 bit"}}, Rounding("overflow_safe", "4 bit")),
        (("uint8",), {}, Rounding("8 bit", "8 bit")),
        (("static",), {"static": {"weight_range": "7 bit"}}, Rounding("7 bit", "8 bit")),
        (("fp32", "int8", "q4"), {}, Rounding("4 bit", "4 bit")),
    ],
)
def test_the_coarsest_precision_says_how_to_round(precisions, settings, expected):
    assert rounding_for(precisions, ExportPreset.model_validate(settings)) == expected


@pytest.mark.parametrize("precision", ["int8", "static", "q4"])
def test_a_token_table_of_3_bits_is_not_imitated(precision):
    with pytest.raises(ConfigError, match="--qat does not support a 3-bit token table"):
        rounding_for((precision,), ExportPreset().with_token_table(3))


def test_float_precisions_need_no_finish():
    with pytest.raises(ConfigError, match="add --int8"):
        rounding_for(("fp32", "fp16"), ExportPreset())
