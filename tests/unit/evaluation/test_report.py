from __future__ import annotations

import json

import pytest
from rich.console import Console
from toy_embedders import ColourEmbedder, square, write_tar

from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation import evaluate_model
from tinyclip_edge.evaluation.compare import compare_embedders, compare_models


class BlindEmbedder(ColourEmbedder):
    """Takes every image for a grey one."""

    name = "blind"

    def encode_image(self, images):
        return super().encode_text(["grey"] * len(images))


def shown(table):
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_retrieval_with_subsets_and_companions(kit):
    report = evaluate_model(ColourEmbedder(), task="retrieval", data="starter:test_style")
    assert [row.name for row in report.rows] == ["all", "without flags", "flags", "icons"]
    assert [row.retrieval.n for row in report.rows] == [3, 2, 1, 2]
    assert all(row.retrieval.t2i[1] == 1.0 for row in report.rows)
    content = json.loads(json.dumps(report.as_dict()))
    assert content["rows"][0]["retrieval"]["t2i"]["1"] == 1.0
    assert "zero_shot" not in content["rows"][0]
    assert "100.0 ± 0.0" in shown(report.table()) and "icons" in shown(report.table())


def test_a_blind_model_gets_chance(kit):
    report = evaluate_model(BlindEmbedder(), data="starter:test_style")
    assert report.rows[0].retrieval.t2i[1] == pytest.approx(1 / 3)
    assert report.rows[1].retrieval.i2t[1] == pytest.approx(1 / 2)
    # The blind model's images are all the same, and so is their distance to pure colours.
    zero = evaluate_model(BlindEmbedder(), task="zero-shot", data="starter:test_style")
    assert zero.rows[0].zero_shot.top1 == pytest.approx(1 / 3)


def test_zero_shot_of_subsets_has_their_own_classes(kit):
    report = evaluate_model(
        ColourEmbedder(), task="zero-shot", data="starter:test_style", templates=("the {}", "{}")
    )
    assert [(r.name, r.zero_shot.n, r.zero_shot.classes) for r in report.rows] == [
        ("all", 3, 3),
        ("without flags", 2, 2),
        ("flags", 1, 1),
        ("icons", 2, 2),
    ]
    assert report.rows[0].zero_shot.top1 == 1.0
    assert "top-1" in shown(report.table())


def test_an_unknown_task(kit):
    with pytest.raises(DataError, match="did you mean 'zero-shot'"):
        evaluate_model(ColourEmbedder(), task="zeroshot")


def test_comparison(kit):
    comparison = compare_embedders(
        {"teacher": ColourEmbedder(), "stu[dent]": BlindEmbedder()},
        rounds=3,
        notes=("from scratch: 1.0",),
    )
    content = json.loads(json.dumps(comparison.as_dict()))
    first, second = content["rows"]
    assert (first["label"], first["recall_at_1"], first["zero_shot_100_way"]) == (
        "teacher",
        1.0,
        1.0,
    )
    assert second["recall_at_1"] == pytest.approx(1 / 3)
    assert second["recall_at_1_stderr"] == pytest.approx((2 / 9 / 3) ** 0.5)
    assert first["megabytes"] == 0.001 and first["encoder_parameters"] == 3
    assert first["details"]["sets"][1]["name"] == "without flags"
    text = shown(comparison.table())
    assert "stu[dent]" in text and "33%" in text and "from scratch: 1.0" in text


def test_nothing_to_compare():
    with pytest.raises(DataError, match="at least one model"):
        compare_models({})


def test_retrieval_on_labels_of_classes_is_reported_as_meaningless(tmp_path):
    members = [(f"{name}/{n}.png", square(name, "PNG")) for name in ("red", "green")
               for n in range(3)]  # fmt: skip
    path = write_tar(tmp_path / "set.tar", members)
    (note,) = evaluate_model(ColourEmbedder(), task="retrieval", data=str(path)).notes
    assert note.startswith("100% of the captions belong to several images")
    assert evaluate_model(ColourEmbedder(), task="zero-shot", data=str(path)).notes == ()
