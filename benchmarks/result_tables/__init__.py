"""All tables that are written from result files, by name, and the pages that contain them."""

from collections.abc import Iterator
from pathlib import Path

from result_tables import exported, natural, running, sources, trained
from result_tables.table import Table, filled

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "benchmarks/README.md")
TABLES: dict[str, Table] = {
    **natural.TABLES,
    **trained.TABLES,
    **sources.TABLES,
    **exported.TABLES,
    **running.TABLES,
}


def filled_pages() -> Iterator[tuple[Path, str]]:
    """Yield each page's path, and its text with the tables filled in."""
    for name in PAGES:
        path = ROOT / name
        yield path, filled(path.read_text(encoding="utf-8"), TABLES)
