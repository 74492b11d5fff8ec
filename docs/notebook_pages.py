"""Hook of MkDocs: a page for each notebook, which remains beside it to be downloaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_NOTEBOOK_LINK = re.compile(r"\]\(([\w-]+)\.ipynb\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add ``NAME.md`` for each ``NAME.ipynb``."""
    for file in [each for each in files if each.src_uri.endswith(".ipynb")]:
        path = PurePosixPath(file.src_uri)
        page = "\n".join(_page(path.name, json.loads(file.content_string)))
        files.append(File.generated(config, str(path.with_suffix(".md")), content=page))
    return files


def _page(name: str, notebook: dict[str, Any]) -> Iterator[str]:
    for number, cell in enumerate(notebook["cells"]):
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            yield f"```python\n{text}\n```\n"
            continue
        yield _NOTEBOOK_LINK.sub(r"](\1.md)", text) + "\n"
        if number == 0:
            yield f"[Download this notebook](./{name})\n"
