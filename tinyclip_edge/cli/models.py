"""``tinyclip-edge models``: the zoo."""

from __future__ import annotations

from tinyclip_edge.cli.options import JsonFlag, print_json


def models(json_output: JsonFlag = False) -> None:
    """List students and teachers by name: sizes and published accuracy."""
    from tinyclip_edge.models import teacher_rows, zoo_rows, zoo_table

    if json_output:
        print_json({"models": zoo_rows(), "teachers": teacher_rows()})
        return
    from rich.console import Console

    Console().print(zoo_table())
