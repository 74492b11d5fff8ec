"""Objects of training are complete when constructed: nobody else sets their attributes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tinyclip_edge

TRAIN = Path(tinyclip_edge.__file__).parent / "train"


def targets(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            yield from node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            yield node.target
        elif isinstance(node, ast.With):
            yield from (item.optional_vars for item in node.items if item.optional_vars)


def outside(source: str) -> list[str]:
    """Attributes that are set on anything but ``self``; a method's own copy of it may be."""
    lines = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            copies = {
                node.targets[0].id
                for node in ast.walk(function)
                if isinstance(node, ast.Assign) and ast.unparse(node.value) == "copy(self)"
            }
            for target in targets(function):
                for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(each, ast.Attribute):
                        owner = ast.unparse(each.value)
                        if owner not in {"self", *copies}:
                            lines.append(ast.unparse(each))
    return lines


def test_the_check_sees_what_it_is_for():
    assert outside("def f(task):\n task.done = 1\n a, task.x = 2, 3\n self.y = 4") == [
        "task.done",
        "task.x",
    ]


@pytest.mark.parametrize(
    "path", sorted(TRAIN.rglob("*.py")), ids=lambda path: str(path.relative_to(TRAIN))
)
def test_no_attribute_is_set_from_outside(path):
    assert outside(path.read_text(encoding="utf-8")) == []
