"""Pictures as files, which tables and folders name."""

import pytest

from pair_shards import toy_samples


@pytest.fixture
def images(tmp_path):
    """The 48 toy pictures as files; returns their relative paths and first captions."""
    rows = []
    for key, files in toy_samples():
        path = tmp_path / "img" / f"{key}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(files["png"])
        rows.append((f"img/{key}.png", files["txt"].decode().splitlines()[0]))
    return rows
