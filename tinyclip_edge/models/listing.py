"""The zoo as rows and as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyclip_edge.models.cost import model_cost
from tinyclip_edge.models.student import zoo_config
from tinyclip_edge.models.zoo import ZOO

if TYPE_CHECKING:
    from rich.table import Table


def zoo_rows() -> list[dict[str, Any]]:
    """Return one JSON-ready row a student: sizes, MACs, published accuracy, teacher."""
    rows = []
    for entry in ZOO.values():
        cost = model_cost(zoo_config(entry.name), entry.name)
        rows.append(
            {
                "name": entry.name,
                "kind": entry.kind,
                "teacher": entry.teacher,
                "image_parameters": cost.parameters.image,
                "text_parameters": cost.parameters.text,
                "token_parameters": cost.parameters.token_embedding,
                "image_macs": cost.image_macs,
                "text_macs": cost.text_macs,
                "imagenet_top1": entry.imagenet_top1,
                "pretrained_on": entry.pretrained_on,
            }
        )
    return rows


def zoo_table() -> Table:
    """Return the zoo for the terminal; accuracies are the published ones, of published weights."""
    from rich.table import Table

    table = Table(
        title="Students", caption="ImageNet top-1: zero-shot, as published for TinyCLIP's weights"
    )
    for column in ("name", "image M", "text M", "tokens M", "GMAC", "ImageNet %", "teacher"):
        table.add_column(column, justify="left" if column in ("name", "teacher") else "right")
    for row in zoo_rows():
        top1 = row["imagenet_top1"]
        table.add_row(
            row["name"],
            *(f"{row[f'{part}_parameters'] / 1e6:.2f}" for part in ("image", "text", "token")),
            f"{(row['image_macs'] + row['text_macs']) / 1e9:.2f}",
            "" if top1 is None else f"{top1:.1f}",
            row["teacher"],
        )
    return table
