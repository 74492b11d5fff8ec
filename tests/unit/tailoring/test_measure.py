"""Costs of shapes of the toy teacher, by real exports."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from tinyclip_edge.errors import DataError
from tinyclip_edge.tailoring.budget import Cost
from tinyclip_edge.tailoring.measure import meter, text_tower_cost
from tinyclip_edge.tailoring.request import TailorRequest
from tinyclip_edge.tailoring.search import Candidates, check_disk, find_candidates
from tinyclip_edge.tailoring.shapes import ImageShape
from tinyclip_edge.tailoring.tower_kinds import teacher_tower


def test_the_toy_teachers_tower(toy_teacher):
    tower = teacher_tower(toy_teacher)
    assert tower.shape == ImageShape(layers=(4,), width=128, mlp_ratio=4.0, image_size=32)
    assert (tower.width_unit, tower.stride, tower.embed_dim) == (64, 8, 64)


@pytest.mark.slow
def test_bytes_are_those_of_a_file_in_int8(toy_teacher):
    tower = teacher_tower(toy_teacher)
    shape = ImageShape((2,), 64, 2.0, 16)
    with meter(toy_teacher, tower, labels=10, text_mb=None) as scales:
        cost = scales.cost(shape)
        assert list(scales.scratch.glob("*.onnx")) == []
    columns = 10 * 64 * 4 / 1e6
    weights = tower.parameters(shape) / 1e6  # a byte each, and what stays float beside
    assert columns + weights < cost.mb < columns + 2 * weights and cost.ms > 0


@pytest.mark.slow
def test_a_text_tower_has_the_tokens_of_its_texts(toy_teacher):
    mb, trims = text_tower_cost(toy_teacher, ["a red cat"])
    blocks = 3 * 12 * 128**2 / 1e6  # layers of the toy's text tower
    assert trims and blocks < mb < 2 * blocks


@pytest.mark.parametrize("form", ["classifier", "towers"])
def test_candidates_are_inside_the_budget(toy_teacher, tmp_path, form, monkeypatch):
    from tinyclip_edge.tailoring import search
    from tinyclip_edge.tailoring.measure import Meter

    tower = teacher_tower(toy_teacher)
    beside = 0.6 if form == "towers" else 2 * 64 * 4 / 1e6

    def cost(self, shape):
        assert self.beside == beside
        return Cost(self.beside + tower.parameters(shape) / 1e6, 1.0)

    monkeypatch.setattr(Meter, "cost", cost)
    monkeypatch.setattr(search, "text_tower_cost", lambda *_: (0.6, True))
    monkeypatch.setattr(search, "teacher_cost", lambda _: Cost(3.0, 2.0))
    request = TailorRequest(
        tmp_path, ("cat", "dog"), "toy", tmp_path, max_mb=1.0, form=form, candidates=4
    )
    lines: list[str] = []
    found = find_candidates(request, toy_teacher, tower, lines.append)
    assert len(found.costs) == 4
    assert lines[0] == "shapes are measured on this machine, for 1 MB and 5 ms"
    assert lines[-1] == f"inside the budget: {', '.join(each.name for each in found.costs)}"
    assert len(lines) >= 7  # the largest, the smallest, and the others of the four
    assert all(each.mb <= 1.0 for each in found.costs.values())
    assert list(found.costs) == sorted(found.costs, reverse=True)
    assert Candidates.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    # Parameters of all, text tower included, seven times four bytes each, do not fit here.
    check_disk(found, tower, toy_teacher, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"the runs of 4 candidates need about .* has 1.00 kB left"):
        check_disk(found, tower, toy_teacher, tmp_path)
