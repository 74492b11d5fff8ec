"""Tables of the pages come from the result files: values by hand, what is missing, and where."""

from __future__ import annotations

import json
import re

import pytest

from result_tables import PAGES, ROOT, TABLES, natural
from result_tables.exported import convolutions
from result_tables.running import familiarity
from result_tables.sources import domain_importance, selection, tailored, unpaired
from result_tables.table import Table, filled, names_in, of_seeds, rows
from result_tables.trained import arms, equal_time, shipped_15

PAGE = "Before.\n\n<!-- table: sizes -->\n\n{}\n\n<!-- end -->\n\nBehind, 99.9.\n"


def sizes(result):
    return rows(("form", "MB"), [(name, f"{mb:.1f}") for name, mb in result["sizes"].items()])


@pytest.fixture
def results(tmp_path):
    (tmp_path / "sizes.json").write_text(json.dumps({"sizes": {"fp32": 93.749, "int8": 24.15}}))
    return tmp_path


def test_a_figure_that_was_typed_is_replaced(results):
    tables = {"sizes": Table(sizes, ("sizes.json",))}
    table = "| form | MB |\n| --- | --- |\n| fp32 | 93.7 |\n| int8 | 24.1 |"
    page = filled(PAGE.format("| form | MB |\n| --- | --- |\n| fp32 | 42.0 |"), tables, results)
    assert page == PAGE.format(table)
    assert filled(page, tables, results) == page


def test_without_its_result_a_table_is_left_as_it_is(results):
    tables = {"sizes": Table(sizes, ("sizes.json", "not-yet.json"))}
    page = PAGE.format("Not measured yet.")
    assert filled(page, tables, results) == page
    assert tables["sizes"].missing(results) == ["not-yet.json"]


def test_an_unknown_table_is_an_error(results):
    with pytest.raises(KeyError, match="sizes"):
        filled(PAGE.format(""), {}, results)


def test_the_processor_of_a_result_stands_below_its_table(results):
    machine = {"cpu": "Some CPU", "flags": ["avx2"], "cores": 2, "load": [0.6, 0.96]}
    (results / "sizes.json").write_text(json.dumps({"machine": machine, "sizes": {"a": 1}}))
    page = filled(PAGE.format(""), {"sizes": Table(sizes, ("sizes.json",), timed=True)}, results)
    assert "| a | 1.0 |\n\nSome CPU (avx2), 2 cores, load 0.96.\n\n<!-- end -->" in page


def test_every_table_stands_on_one_page():
    named = [n for page in PAGES for n in names_in((ROOT / page).read_text(encoding="utf-8"))]
    assert sorted(named) == sorted(TABLES)


def test_every_comment_of_a_page_is_one_of_a_table():
    """A misspelt comment would silently leave its table alone."""
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        comments = re.findall(r"<!--.*?-->", text, re.DOTALL)
        assert len(comments) == 2 * len(names_in(text)), page


def test_seeds_stand_behind_their_mean():
    assert of_seeds([48.827, 48.605, 49.017], best=True) == "**48.8** (48.8, 48.6, 49.0)"
    assert of_seeds([51.585]) == "51.6"


def test_arms_of_a_student():
    recalls = {"inherited": [35.7, 35.9], "affinity": [1.49, 1.65], "scratch": [0.95, 1.3]}
    result = {
        "student": "starter-15",
        "steps": 400,
        "arms": {name: {"r1": {"all": values}} for name, values in recalls.items()},
    }
    assert arms(result).splitlines()[2] == (
        "| `starter-15` | 400 | **35.8** (35.7, 35.9) | 1.6 (1.5, 1.6) | 1.1 (0.9, 1.3) |"
    )


def test_unpaired_students_have_their_share():
    row = {"r1": [48.0, 50.0], "share_mean": 95.25, "share_of_paired": [94.1, 96.4]}
    assert unpaired({"arms": {"unpaired": row}}).splitlines()[2] == (
        "| unpaired | 49.0 (48.0, 50.0) | 95.2 (94.1, 96.4) |"
    )


def test_domains_have_a_row_for_each_calibration():
    row = {
        "r1_before_training": [7.5], "r1": [50.0], "gain": [0.0], "gain_mean": 0.0,
        "all_concepts_r1": [19.2],
    }  # fmt: skip
    result = {"domains": {"animals": {"general": row}, "food": {"mix": row}}}
    assert domain_importance(result).splitlines()[2:] == [
        "| animals | general | 7.5 | 50.0 | +0.00 (+0.0) | 19.2 |",
        "| food | mix | 7.5 | 50.0 | +0.00 (+0.0) | 19.2 |",
    ]


def test_parts_of_a_selection_that_are_there_are_shown():
    rate = {"captions": 1000, "processor_seconds": 0.25, "captions_per_processor_second": 4000}
    assert selection({"rate": rate}).splitlines()[2] == "| 1,000 | 0.2 | 4,000 |"
    shares = {"precision": {"seeds": [50.0]}, "recall at twice as many": {"seeds": [68.0]}}
    planted = {"planted": 485, "of": 25727, "chance": 1.89, "both": shares}
    text = selection({"rate": rate, "planted": planted})
    assert "| both | 50.0 | 68.0 |\n| chance | 1.9 | |\n\n| captions |" in text


def test_tailored_students_stand_beside_the_general_and_the_paired_one():
    arms = {
        "general": {"bytes": 2_840_000, "top1": [60.0, 62.0], "gain": [0.0, 0.0]},
        "tailored": {"bytes": 1_226_362, "top1": [63.0, 62.0], "gain": [3.0, 0.0]},
        "tailored, pairs": {"bytes": 1_226_362, "top1": [65.0, 64.0], "gain": [5.0, 2.0]},
    }
    for row in arms.values():
        row |= {"top1_mean": sum(row["top1"]) / 2, "gain_mean": sum(row["gain"]) / 2}
    result = {"domains": {"food": {"teacher_top1": 72.28, "arms": arms}}}
    assert tailored(result).splitlines()[2:] == [
        "| food | teacher | | 72.3 | | |",
        "| food | general | 2.84 | 61.0 (60.0, 62.0) | +0.0 (+0.0, +0.0) | |",
        "| food | tailored | 1.23 | 62.5 (63.0, 62.0) | +1.5 (+3.0, +0.0) | 97 |",
        "| food | tailored, pairs | 1.23 | 64.5 (65.0, 64.0) | +3.5 (+5.0, +2.0) | |",
    ]


def test_tailored_natural_classifiers_have_their_share_of_the_teacher():
    teacher = {"bytes": 20_000_000, "ms": 1.5, "top1": 40.0}
    small = {"bytes": 1_000_000, "ms": 0.125, "top1": 38.0, "share_of_teacher": 95.0}
    result = {"models": {"teacher": teacher, "tailored, 1 MB": small}}
    assert natural.tailored(result).splitlines()[2:] == [
        "| teacher | 20.00 | | 1.50 | 40.0 | |",
        "| tailored, 1 MB | 1.00 | 20 | 0.12 | 38.0 | 95 |",
    ]


def test_forms_of_a_convolutional_tower_are_compared_with_fp32():
    result = {
        "trained": {
            "bytes": {"fp32": 45_500_000, "dynamic": 12_700_000},
            "cosine": {
                "fp32": {"min": 1.0, "median": 1.0},
                "dynamic": {"min": 0.998, "median": 0.9994},
            },
        },
        "spread": {"cosine": {"fp32": {"min": 1.0}, "dynamic": {"min": 0.9974}}},
        "ms": {
            "fp32": {"faster": {"median": 1.0, "min": 1.0}},
            "dynamic": {"faster": {"median": 56.5 / 31.2, "min": 1.204}},
        },
    }
    assert convolutions(result).splitlines()[2:] == [
        "| fp32 | 45.5 | 1.000 | 1.0000 | 1.000 | 1.00 | 1.00 |",
        "| dynamic | 12.7 | 0.998 | 0.9994 | 0.997 | 1.81 | 1.20 |",
    ]


def test_students_at_equal_time_have_their_steps_and_seconds():
    arm = {"seconds": [26.6, 25.7], "steps": [400, 400], "r1": [44.388, 44.547]}
    assert equal_time({"arms": {"as shipped": arm}}).splitlines()[2] == (
        "| as shipped | 27, 26 | 400, 400 | 44.5 (44.4, 44.5) |"
    )


def test_the_small_student_is_compared_with_its_teacher():
    student = {"encoder_parameters": 1_145_856, "t2i_r1": [47.5, 48.1], "steps": 1500}
    teacher = {"encoder_parameters": 7_445_760, "t2i_r1": 55.1, "stderr": 1.25}
    line = shipped_15({"teacher": teacher, "runs": {"starter-15": student}})
    assert line[:2] == (
        "student with 15 %, 1,500 steps",
        "87 % of the teacher's recall@1 (47.8 (47.5, 48.1) of 55.1)",
    )  # fmt: skip


def test_sets_have_their_names_wherever_they_lie():
    sets = ("starter:val", "data/cifar10-test.tar", "elsewhere/tiny-imagenet-200/val.tar")
    rows = [{"set": name, "pictures": 1000, "unfamiliar": 0.5} for name in sets]
    names = [line.split(" | ")[0] for line in familiarity({"sets": rows}).splitlines()[2:]]
    assert names == [
        "| starter:val (sets the limit)", "| photographs, CIFAR-10", "| photographs, Tiny-ImageNet"
    ]  # fmt: skip
