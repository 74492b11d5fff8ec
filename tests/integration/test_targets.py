"""``export --target``: files that an engine takes, and bundles that open and answer here."""

import json
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tinyclip_edge.api.bundles import check
from tinyclip_edge.errors import BundleError, TinyClipWarning
from tinyclip_edge.models import load_clip
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.edge import EdgeCLIP

pytestmark = pytest.mark.usefixtures("towers_exported_once")

ORT_FORMAT = b"6"  # the version of onnxruntime's format that 1.20 to 1.32 write
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
    assert "device coreml, but is open on cpu" in result.as_dict()["misfit"]


@pytest.mark.slow
def test_android_has_ort_files_and_the_operators_of_a_reduced_build(toy_teacher_folder, export):
    out, _ = export(toy_teacher_folder, "android")
    towers = sorted(path.name for path in (out / "onnx").iterdir())
    assert towers == [
        "required_operators_and_types.config",
        "text_model_quantized.ort",
        "vision_model_quantized.ort",
    ]
    listed = (out / "onnx" / towers[0]).read_text()
    assert "MatMulIntegerToFloat" in listed
    assert str(out.parent) not in listed  # the tool writes the paths of this machine
    manifest = Manifest.read(out)
    assert manifest.target["onnxruntime"] == ort.__version__
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # these files are at home on any processor
        clip = EdgeCLIP.load(out)
    expected = load_clip(str(toy_teacher_folder))
    ids = expected.tokenizer(["cat", "a red dog"])
    features = expected.model.encode_text(ids, normalize=True).detach().numpy()
    assert (clip.encode_text(["cat", "a red dog"]) * features).sum(axis=1).min() > 0.99

    path = out / manifest.towers["text"]["int8"]
    content = bytearray(path.read_bytes())
    # The version is the flatbuffer's last string: its length in four bytes, and one character.
    assert content.endswith(b"\1\0\0\0" + ORT_FORMAT + b"\0\0\0")
    content[-4] = ord("9")
    path.write_bytes(content)
    with pytest.raises(
        BundleError, match=f"by a newer onnxruntime than the installed {ort.__version__}"
    ):
        EdgeCLIP.load(out, verify=False).encode_text(["cat"])


def test_a_bundle_of_two_ort_towers_has_no_other_graphs(toy_teacher_folder, command_line, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\n")
    options = ("--target", "android", "--labels", labels, "--out", tmp_path / "out", *FEW)
    code, _, stderr = command_line("export", toy_teacher_folder, *options)
    assert code == 2
    assert "target android writes only the two towers, as .ort; omit --labels" in stderr
