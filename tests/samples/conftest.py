"""What the applications are built with, as `make samples` unpacks it, and a bundle for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared_builds import built_once

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder of unpacked packages."""
    return ROOT / "build/samples"


@pytest.fixture(scope="session")
def bundle(toy_teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy teacher, its graphs from texts and pictures as well. Shared: do not write into it."""

    def build(folder: Path) -> None:
        from tinyclip_edge.models import load_clip
        from tinyclip_export import export_bundle
        from tinyclip_export.settings import ExportSettings, Extras
        from toy_export import toy_pairs

        export_bundle(
            load_clip(str(toy_teacher_folder)),
            folder / "toy",
            pairs=toy_pairs(),
            max_drop=100.0,
            settings=ExportSettings(extras=Extras(embed_tokenizer=True, embed_preprocessing=True)),
        )

    return built_once(tmp_path_factory, "one-graph", build) / "toy"
