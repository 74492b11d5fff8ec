"""Students of multilingual families from their teacher to an int8 bundle, offline."""

from __future__ import annotations

import numpy as np
import pytest

from families import ENCODERS, family
from pair_shards import COLOURS, draw
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.models import (
    TorchEmbedder,
    create_student,
    inherit_student,
    load_clip,
    save_local_dir,
)
from tinyclip_export import export_bundle
from tinyclip_export.settings import ExportSettings

WORLDWIDE = ("MetaCLIP 2 worldwide", "MetaCLIP 2 worldwide, XLM-V")
TEXTS = ["a red bicycle", "un gato rojo", "Ein rotes Rad!", "赤い 自転車", "", "zebra </s> <pad> x"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_exports")
@pytest.mark.parametrize("kind", [*ENCODERS, *WORLDWIDE])
def test_a_bundle_embeds_texts_of_all_languages(kind, tmp_path):
    teacher = family(kind)
    student = create_student({"text_cfg": {"width": 32, "layers": 2}}, teacher)
    inherit_student(teacher, student)
    save_local_dir(tmp_path / "student", student)
    clip = load_clip(str(tmp_path / "student"))
    texts = [f"a {size} {colour} square" for colour in COLOURS for size in ("small", "big")]
    images = [draw(colour, "square", size) for colour in COLOURS for size in ("small", "big")]
    export_bundle(
        clip,
        tmp_path / "bundle",
        precisions=("fp32", "int8"),
        pairs=(images, texts),
        max_drop=100.0,  # weights are random
        settings=ExportSettings(search=False),
    )
    ours = TorchEmbedder(clip).encode_text(TEXTS)
    exact = EdgeCLIP.load(tmp_path / "bundle", precision="fp32").encode_text(TEXTS)
    assert np.abs(exact - ours).max() < 1e-5
    quantized = EdgeCLIP.load(tmp_path / "bundle", precision="int8").encode_text(TEXTS)
    assert (quantized * ours).sum(axis=1).min() > 0.99
