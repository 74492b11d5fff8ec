"""What reaches the user's folder, and what does not."""

import errno
import json
import shutil
from copy import deepcopy
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from tinyclip_edge.errors import BundleError, ConfigError, DataError, ModelError, VerificationError
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.replay import replay
from tinyclip_export import export_bundle
from tinyclip_export.onnx_passes import exporter
from tinyclip_export.settings import ExportSettings
from tinyclip_export.verification.failures import (
    GatesFailedError,
    RankingError,
    ReloadError,
    ShapesError,
)
from tinyclip_export.verification.reload import replay_in_child


@pytest.fixture
def quick(exported, monkeypatch):
    """Exports that take their towers from the shared bundle and reopen it in this process."""
    onnx_folder = exported.folder / "onnx"

    def image(_tower, path, *, image_size, form):
        assert image_size == 32
        shutil.copyfile(onnx_folder / path.name, path)

    def copied(_source, path, *_args, **_options):
        shutil.copyfile(onnx_folder / path.name, path)

    monkeypatch.setattr(exporter, "export_image_tower", image)
    monkeypatch.setattr(exporter, "export_text_tower", copied)
    monkeypatch.setattr(
        "tinyclip_export.quantization.tower_writer.TowerWriter.write_both",
        lambda _writer, _recipes, targets: [copied(None, path) for path in targets.values()],
    )
    monkeypatch.setattr(
        "tinyclip_export.stages.replay_in_child",
        lambda folder, precision: {"cosine": replay(folder, precision).min_cosine},
    )

    def run(out, **options):
        return export_bundle(
            exported.clip,
            out,
            **{
                "pairs": exported.pairs,
                "max_drop": 100.0,
                "settings": ExportSettings(search=False),
                **options,
            },
        )

    return run


def everything_under(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_edge_clip_gives_the_models_embeddings(exported):
    from tinyclip_edge.models import TorchEmbedder

    expected = TorchEmbedder(exported.clip)
    images, texts = exported.pairs
    for precision, least in (("fp32", 0.99999), ("int8", 0.99)):
        clip = EdgeCLIP.load(exported.folder, precision=precision)
        image = (clip.encode_image(images) * expected.encode_image(images)).sum(axis=1)
        text = (clip.encode_text(texts) * expected.encode_text(texts)).sum(axis=1)
        assert min(image.min(), text.min()) > least
        assert clip.logit_scale == pytest.approx(expected.logit_scale)


def test_a_changed_byte_is_refused_by_name(exported, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(exported.folder, copy)
    victim = copy / "onnx" / "vision_model_quantized.onnx"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(BundleError, match=r"vision_model_quantized\.onnx has changed"):
        Manifest.read(copy).verify_files(copy)
    assert "vision_model_quantized.onnx has changed" in replay_in_child(copy, "int8")["error"]


def test_a_failed_gate_leaves_nothing_behind(quick, tmp_path, monkeypatch):
    random = np.random.default_rng(1)
    monkeypatch.setattr(
        "tinyclip_export.quantization.tower_writer.TowerWriter.write_both",
        lambda writer, _recipes, targets: [
            scramble(writer.source(tower), path, random) for tower, path in targets.items()
        ],
    )
    with pytest.raises(VerificationError) as caught:
        quick(tmp_path / "out" / "bundle", max_drop=0.0)
    assert isinstance(caught.value, GatesFailedError)
    assert caught.value.exit_code == 3
    assert "int8 image values" in str(caught.value)
    assert "int8 text values" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything_under(tmp_path) == ["out"]


def scramble(source, target, random):
    """An 'int8' tower whose large weights are noise."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2:
            noise = random.standard_normal(tuple(tensor.dims)).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(noise, tensor.name))
    onnx.save(model, target)


def test_a_frozen_batch_is_refused_before_any_comparison(quick, tmp_path, monkeypatch, exported):
    import onnx

    def frozen(_tower, path, *, image_size, form):
        model = onnx.load(exported.folder / "onnx" / "vision_model.onnx")
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        onnx.save(model, path)

    monkeypatch.setattr(exporter, "export_image_tower", frozen)
    with pytest.raises(GatesFailedError) as caught:
        quick(tmp_path / "bundle", precisions=["fp32"])
    kinds = {type(failure).__name__ for failure in caught.value.failures}
    assert kinds == {"AxesError", "ShapesError"}
    assert any(isinstance(f, ShapesError) for f in caught.value.failures)
    assert everything_under(tmp_path) == []


@pytest.mark.parametrize(
    "call",
    [
        "tinyclip_edge.aside.work_folder",
        "tinyclip_edge.models.hf_config.write_preprocessor_config",
    ],
)
def test_a_disk_that_refuses_is_one_line(quick, tmp_path, monkeypatch, call):
    def refuse(*_args, **_options):
        raise OSError(errno.EROFS, "Read-only file system", "/somewhere")

    monkeypatch.setattr(call, refuse)
    with pytest.raises(BundleError, match=r"cannot write bundle .*b: Read-only file system$"):
        quick(tmp_path / "b", precisions=["fp32"])
    assert everything_under(tmp_path) == []


def test_a_bundle_below_a_file_is_refused(quick, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match=r"cannot write bundle .*file/b: .*file is a file"):
        quick(tmp_path / "file" / "b", precisions=["fp32"])


def test_a_bundle_that_does_not_reopen_is_refused(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tinyclip_export.stages.replay_in_child", lambda _f, _p: {"error": "Segmentation fault"}
    )
    with pytest.raises(GatesFailedError, match="fp32 reload: Segmentation fault") as caught:
        quick(tmp_path / "bundle", precisions=["fp32"])
    assert [type(f) for f in caught.value.failures] == [ReloadError]
    assert everything_under(tmp_path) == []


def test_ranking_gate_reads_max_drop(quick, tmp_path, monkeypatch):
    monkeypatch.setattr("tinyclip_export.verification.gates.recall_drop", lambda _b, _a: (2.0, 0.4))
    with pytest.raises(GatesFailedError) as caught:
        quick(tmp_path / "bundle", max_drop=1.5)
    assert [type(f) for f in caught.value.failures] == [RankingError]
    quick(tmp_path / "bundle", max_drop=1.6)
    assert (tmp_path / "bundle" / "manifest.json").is_file()


@pytest.mark.parametrize("precisions", [("fp32",), ("int8",)])
def test_one_precision_alone(quick, tmp_path, precisions):
    report = quick(tmp_path / "bundle", precisions=precisions, name="mine")
    suffix = "" if precisions == ("fp32",) else "_quantized"
    files = {p.name for p in (tmp_path / "bundle" / "onnx").iterdir()}
    assert files == {f"{stem}{suffix}.onnx" for stem in ("vision_model", "text_model", "model")}
    clip = EdgeCLIP.load(tmp_path / "bundle")
    assert (clip.manifest.name, clip.name, report.name) == ("mine", "bundle", "mine")
    assert (clip.precision, report.precisions) == (precisions[0], precisions)


def test_a_used_folder_is_untouched_and_a_bundle_replaced_on_request(quick, tmp_path):
    out = tmp_path / "bundle"
    out.mkdir()
    quick(out, precisions=["fp32"], name="first")  # an empty folder is free
    with pytest.raises(BundleError, match="--force"):
        quick(out)
    assert Manifest.read(out).name == "first"
    quick(out, precisions=["fp32"], name="second", force=True)
    assert Manifest.read(out).name == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    (out / "manifest.json").unlink()
    with pytest.raises(BundleError, match="other files"):
        quick(out, force=True)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(BundleError, match="is a file"):
        quick(file, force=True)


def test_bad_requests_are_refused_before_any_work(exported, tmp_path):
    images, texts = exported.pairs
    out = tmp_path / "bundle"
    with pytest.raises(ConfigError, match="did you mean 'int8'"):
        export_bundle(exported.clip, out, precisions=["int9"], pairs=exported.pairs)
    with pytest.raises(ConfigError, match="known"):
        export_bundle(exported.clip, out, precisions=[], pairs=exported.pairs)
    with pytest.raises(DataError, match="12 images but 11 texts"):
        export_bundle(exported.clip, out, pairs=(images, texts[1:]))
    with pytest.raises(DataError, match="2 or more"):
        export_bundle(exported.clip, out, pairs=(images[:1], texts[:1]))
    assert everything_under(tmp_path) == []


def test_a_broken_picture_among_the_pairs_is_named(quick, exported, tmp_path):
    images, texts = exported.pairs
    with pytest.raises(DataError, match="image 3"):
        quick(tmp_path / "bundle", pairs=([*images[:3], b"junk", *images[4:]], texts))
    assert everything_under(tmp_path) == []


class DataDependent(torch.nn.Module):
    """An image tower whose graph depends on the values of its pixels."""

    image_size = (32, 32)
    preprocess_cfg: ClassVar = {}

    def __init__(self):
        super().__init__()
        self.project = torch.nn.Linear(3, 64)

    def forward(self, pixels):
        features = self.project(pixels.mean(dim=(2, 3)))
        return features if float(pixels.sum()) > 0 else -features


def test_a_model_that_cannot_be_exported_leaves_nothing(exported, tmp_path):
    odd = replace(exported.clip, model=deepcopy(exported.clip.model), name="odd")
    odd.model.visual = DataDependent()
    with pytest.raises(ModelError, match="cannot be exported"):
        export_bundle(odd, tmp_path / "bundle", pairs=exported.pairs)
    assert everything_under(tmp_path) == []


def test_report_is_json_and_a_table(exported):
    from rich.console import Console

    report = exported.report
    content = json.loads(json.dumps(report.as_dict()))
    assert content["folder"] == str(exported.folder)
    sizes = {
        p.relative_to(exported.folder).as_posix(): p.stat().st_size
        for p in exported.folder.rglob("*")
        if p.is_file()
    }
    del sizes["manifest.json"]
    assert content["files"] == sizes
    stages = {"export", "quantize", "verify", "search", "extras", "engine", "reload"}
    assert set(content["seconds"]) == stages
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(report.table())
    shown = console.export_text()
    assert "verified on 12 pairs" in shown
    assert f"{report.tower_bytes('int8') / 1e6:.2f}" in shown


def test_manifest_and_table_say_what_the_gate_allows(exported):
    verification = Manifest.read(exported.folder).verification
    assert verification["max_drop"] == 100.0
    assert verification["max_drop_allows"] == "recall@1_drop - recall@1_stderr <= max_drop"
    assert "100 and one standard error allowed" in str(exported.report.table().caption)


def test_too_few_pairs_are_marked_in_report_and_table(quick, tmp_path):
    report = quick(tmp_path / "out", max_drop=0.5)
    assert any("int8 ranking: too few pairs to tell: one of 12" in w for w in report.warnings)
    column = report.table().columns[5]
    assert [str(cell).endswith("?") for cell in column.cells] == [False, True]
