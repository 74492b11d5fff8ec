"""The zoo as rows and as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.models.cost import model_cost
from tinyclip_edge.models.folder import read_config
from tinyclip_edge.models.library import open_clip
from tinyclip_edge.models.student import zoo_config
from tinyclip_edge.models.zoo import TEACHERS, ZOO, RoundedSize, ZooEntry

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("image\nM", "text\nM", "text +\ntokens", "\nGMAC", "top-1\n%")


def zoo_rows() -> list[dict[str, Any]]:
    """Return one JSON-ready row a student: sizes, MACs, published accuracy, teacher.

    A recipe of stages has no shape before it is trained: its sizes are the published ones,
    ``rounded``, and the token embedding, which masks make narrower, is not known.
    """
    return [_student_row(entry) for entry in ZOO.values()]


def teacher_rows() -> list[dict[str, Any]]:
    """Return one JSON-ready row a teacher of the zoo."""
    return [
        {
            "name": teacher.name,
            **_sizes(_teacher_config(teacher.name), teacher.name),
            "imagenet_top1": teacher.imagenet_top1,
            "pretrained_on": teacher.pretrained_on,
        }
        for teacher in TEACHERS.values()
    ]


def _student_row(entry: ZooEntry) -> dict[str, Any]:
    sizes = (
        _sizes(zoo_config(entry.name), entry.name)
        if entry.size is None
        else _rounded_sizes(entry.size)
    )
    return {
        "name": entry.name,
        "kind": entry.kind,
        "teacher": entry.teacher,
        "stages": list(entry.stages),
        **sizes,
        "imagenet_top1": entry.imagenet_top1,
        "pretrained_on": entry.pretrained_on,
    }


def _sizes(model_cfg: dict[str, Any], name: str) -> dict[str, Any]:
    cost = model_cost(model_cfg, name)
    count = cost.parameters
    return {
        "image_parameters": count.image,
        "text_parameters": count.text,
        "token_parameters": count.token_embedding,
        "parameters": count.encoders,
        "parameters_with_tokens": count.encoders + count.token_embedding,
        "rounded": False,
        "image_macs": cost.image_macs,
        "text_macs": cost.text_macs,
        "gmacs": (cost.image_macs + cost.text_macs) / 1e9,
    }


def _rounded_sizes(size: RoundedSize) -> dict[str, Any]:
    image, text = size.image_millions * 1_000_000, size.text_millions * 1_000_000
    return {
        "image_parameters": image,
        "text_parameters": text,
        "token_parameters": None,
        "parameters": image + text,
        "parameters_with_tokens": None,
        "rounded": True,
        "image_macs": None,
        "text_macs": None,
        "gmacs": size.gmacs,
    }


def _teacher_config(name: str) -> dict[str, Any]:
    if name == "starter-teacher":
        from tinyclip_edge.starter import teacher_path

        config: dict[str, Any] = read_config(Path(teacher_path()))["model_cfg"]
    else:
        config = open_clip.get_model_config(name.split("/", 1)[0])
    return config


def zoo_table() -> Table:
    """Return the zoo for the terminal, 80 columns wide; accuracies are the published ones."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(
        title="Students, and their teachers below",
        caption="Parameters without BatchNorm statistics. Automatic students are recipes of "
        "stages: rounded, as published. top-1: zero-shot ImageNet, as published.",
        box=SIMPLE,
        show_edge=False,
        padding=0,
    )
    table.add_column("\nname", overflow="fold")
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("\ndata", no_wrap=True)
    students, teachers = zoo_rows(), teacher_rows()
    for number, row in enumerate((*students, *teachers), 1):
        table.add_row(row["name"], *_cells(row), end_section=number == len(students))
    return table


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    digits = 0 if row["rounded"] else 2
    text, tokens = row["text_parameters"], row["token_parameters"]
    both = None if tokens is None else text + tokens
    millions = (
        "" if count is None else f"{count / 1e6:.{digits}f}"
        for count in (row["image_parameters"], text, both)
    )
    top1 = row["imagenet_top1"]
    return (
        *millions,
        f"{row['gmacs']:.{1 if row['rounded'] else 2}f}",
        "" if top1 is None else f"{top1:.1f}",
        row["pretrained_on"] or "",
    )
