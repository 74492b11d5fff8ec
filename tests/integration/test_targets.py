"""``export --target``: files that an engine takes, and bundles that open and answer here."""

import json
import warnings

import numpy as np
import onnx
import pytest

from tinyclip_edge.api.bundles import check
from tinyclip_edge.errors import TinyClipWarning
from tinyclip_edge.models import load_clip
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.edge import EdgeCLIP

FEW = ("--limit", 8, "--max-drop", 100, "--json")
LONG = "a photo of a very red dog and a blue square on a green circle with a bicycle under it"


@pytest.fixture
def export(command_line, tmp_path):
    """Export with the command line; returns the bundle's folder and what it reports."""

    def run(model, target):
        out = tmp_path / target
        code, stdout, stderr = command_line("export", model, "--target", target, "--out", out, *FEW)
        assert code == 0, stderr
        return out, json.loads(stdout)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "precision", "least"),
    [("qnn", "a16w8", 0.99), ("coreml", "fp16", 0.999), ("tensorrt", "static", 0.9)],
)
def test_a_bundle_of_an_engine_opens_here_and_says_so(
    target, precision, least, toy_teacher_folder, export
):
    out, report = export(toy_teacher_folder, target)
    assert precision in report["precisions"]
    manifest = Manifest.read(out)
    assert manifest.target == {"name": target}
    assert manifest.inputs["batch"] == 1
    assert (manifest.inputs["padding"], manifest.inputs["ids"]) == ("max_length", "int32")
    assert sorted(path.suffix for path in (out / "onnx").iterdir()) == [".onnx"] * 2 * len(
        report["precisions"]
    )  # no file for the pipeline of transformers.js
    for path in (out / "onnx").iterdir():
        sizes = [
            d for each in onnx.load(str(path)).graph.input for d in each.type.tensor_type.shape.dim
        ]
        assert all(size.dim_value for size in sizes)
    with pytest.warns(TinyClipWarning, match=f"made for target {target} .* is open on cpu"):
        clip = EdgeCLIP.load(out, precision=precision)
    teacher = load_clip(str(toy_teacher_folder))
    texts = ["cat", "a red dog", LONG]
    expected = teacher.model.encode_text(teacher.tokenizer(texts), normalize=True).detach().numpy()
    assert (clip.encode_text(texts) * expected).sum(axis=1).min() > least
    # The text is cut to the fixed length, and the usual note says so.
    assert not clip.fits_context(LONG)
    assert len(clip.token_ids(LONG)) == clip.context_length == len(clip.token_ids("cat"))
    picture = np.full((40, 40, 3), 90, np.uint8)
    with pytest.warns(UserWarning, match=f"longer than the model's {clip.context_length} tokens"):
        clip.classify(picture, ["cat", LONG])


@pytest.mark.slow
def test_check_names_the_target_and_what_it_costs_here(toy_teacher_folder, export):
    out, _ = export(toy_teacher_folder, "coreml")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = check(out)
    assert result.passed
    assert result.as_dict()["target"] == "coreml"
    assert "device coreml, and is open on cpu" in result.as_dict()["misfit"]
