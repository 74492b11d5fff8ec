"""Files of another engine: written, run there, judged by our gates; onnxruntime plays it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from tinyclip_edge.config.preset import ExportPreset, load_preset
from tinyclip_edge.errors import ConfigError, MissingExtraError, ModelError, VerificationError
from tinyclip_edge.runtime.bundle import Manifest, list_files
from tinyclip_export.engines import registry
from tinyclip_export.engines.replay import replay_engine
from tinyclip_export.engines.stage import write_engine
from tinyclip_export.engines.towers import EngineSession
from tinyclip_export.export_job import ExportJob
from tinyclip_export.export_report import ExportReport
from tinyclip_export.layout import ANY_INPUT
from tinyclip_export.settings import ExportSettings
from tinyclip_export.verification.failures import GatesFailedError, ValuesError
from tinyclip_export.verification.gates import VerificationReport


class Copies:
    """The ONNX file under another name; `change` is what the engine does to its answers."""

    def __init__(self, change=lambda features, path: features):
        self.change, self.shapes = change, set()

    def version(self):
        return "1.2"

    def write(self, tower, targets):
        for path in targets.values():
            shutil.copyfile(tower.source, path)

    def open(self, path, threads):
        assert threads >= 1
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def encode(batch):
            self.shapes.add((name, batch.shape))
            return self.change(session.run(None, {name: batch})[0], path)

        return encode


@pytest.fixture
def written(exported, tmp_path, monkeypatch):
    """Return a function that adds the files of an engine to a copy of the toy bundle."""

    def write(engine, name="litert"):
        monkeypatch.setitem(registry._WRITERS, name, lambda: engine)
        folder = tmp_path / "toy"
        shutil.copytree(exported.folder, folder)
        settings = ExportSettings(load_preset(name))
        job = ExportJob(
            exported.clip, folder, tmp_path, "toy", ("fp32",), exported.pairs, 100.0, settings
        )
        end = Manifest.read(folder).eot_token_id
        towers = SimpleNamespace(
            writer=SimpleNamespace(module=lambda tower: None),
            form=ANY_INPUT,
            special=SimpleNamespace(end=end),
        )
        report = VerificationReport()
        return folder, write_engine(job, towers, report), report

    return write


def test_its_files_are_run_with_padded_texts_and_recorded(written):
    engine = Copies()
    folder, entry, report = written(engine)
    assert not report.failures
    assert entry["files"] == {
        "fp32": {"image": "litert/vision_model.tflite", "text": "litert/text_model.tflite"},
        "int8": {
            "image": "litert/vision_model_quantized.tflite",
            "text": "litert/text_model_quantized.tflite",
        },
    }
    assert (entry["name"], entry["version"]) == ("litert", "1.2")
    assert entry["inputs"] == {"batch": 1, "padding": "max_length", "pad_id": 0, "ids": "int32"}
    length = Manifest.read(folder).context_length
    assert engine.shapes == {("pixel_values", (1, 3, 32, 32)), ("input_ids", (1, length))}
    for figures in entry["verification"].values():
        assert figures["image"]["cosine_min"] == pytest.approx(1, abs=1e-5)
        assert figures["checks"]["ranking"] is True
    # The files are those of fp32, and so are their golden vectors.
    files = list_files(folder)
    manifest = replace(Manifest.read(folder), extras={"engine": entry}, files=files)
    manifest.write(folder)
    assert replay_engine(folder, "int8").min_cosine == pytest.approx(1, abs=1e-5)
    entry["golden"]["int8"]["image"] = entry["golden"]["int8"]["text"]
    replace(manifest, extras={"engine": entry}).write(folder)
    assert replay_engine(folder, "int8").min_cosine < 0.9


def test_an_engine_with_free_axes_gets_texts_as_they_are(written):
    engine = Copies()
    _, entry, _ = written(engine, "openvino")
    lengths = {shape[1] for name, shape in engine.shapes if name == "input_ids"}
    assert len(lengths) > 1 and entry["inputs"]["padding"] == "none"


def test_a_file_that_answers_otherwise_fails_its_gate(written):
    def roll(features, path):
        return np.roll(features, 1, axis=1) if path.stem == "text_model_quantized" else features

    _, entry, report = written(Copies(roll))
    (failure,) = (each for each in report.failures if isinstance(each, ValuesError))
    assert "litert int8 text values: cosine" in str(failure)
    checks = {name: each["checks"] for name, each in entry["verification"].items()}
    assert checks["int8"]["text values"] is False and checks["fp32"]["text values"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda features, path: features * 2, "litert fp32 image shapes: norms up to 1 away"),
        (lambda features, path: features[:, :-1], r"litert fp32 image shapes: \(12, 63\), not"),
    ],
)
def test_embeddings_of_another_norm_or_length_are_refused(written, change, message):
    with pytest.raises(GatesFailedError, match=message):
        written(Copies(change))


def test_a_converter_that_stops_is_quoted(written):
    class Stops(Copies):
        def write(self, tower, targets):
            raise RuntimeError("no kernel for erf\nwith a long trace")

    with pytest.raises(ModelError, match="target litert: its converter fails on the image tower: "
                       "no kernel for erf; export without"):  # fmt: skip
        written(Stops())


def test_a_file_that_does_not_load_or_run_is_named(written):
    class Unreadable(Copies):
        def open(self, path, threads):
            raise ValueError("bad magic number")

    with pytest.raises(VerificationError, match=r"vision_model\.tflite does not load: bad magic"):
        written(Unreadable())

    def fails(batch):
        raise RuntimeError("no memory")

    session = EngineSession(fails, "text_model.pte", 5, 7)
    with pytest.raises(VerificationError, match=r"text_model\.pte fails on \(1, 5\): no memory"):
        session.run(None, {"input_ids": np.ones((1, 2), np.int64)})


def test_short_texts_are_filled_up_with_the_padding_token():
    session = EngineSession(lambda batch: batch, "text", 5, 7)
    (ids,) = session.run(None, {"input_ids": np.array([[1, 2]])})
    assert ids.tolist() == [[1, 2, 7, 7, 7]]


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"target litert needs .*'litert-torch'.*\[litert"):
        registry.require_engine("litert")
    registry.require_engine(None)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"name": "executorch", "precisions": ["int8"]}, "executorch has no precision 'int8'; it"),
        ({"name": "litert"}, "engine litert needs precisions: fp32, int8"),
        ({"precisions": ["fp32"]}, "has no precision 'fp32'; set engine.name first"),
    ],
)
def test_precisions_that_an_engine_lacks_are_refused(engine, message):
    with pytest.raises(ConfigError, match=message):
        ExportPreset.model_validate({"engine": engine})


def test_the_report_has_a_row_of_both_towers_with_all_their_files(exported):
    entry = {
        "name": "openvino",
        "files": {"fp16": {"image": "openvino/a.xml", "text": "openvino/b.xml"}},
        "verification": {"fp16": exported.report.verification["precisions"]["fp32"]},
    }
    sizes = {"openvino/a.xml": 1e6, "openvino/a.bin": 2e6, "openvino/b.xml": 1e6,
             "openvino/b.bin": 5e6, "openvino/c.bin": 7e6}  # fmt: skip
    report = replace(exported.report, engine=entry, files={**exported.report.files, **sizes})
    assert isinstance(report, ExportReport) and report.as_dict()["engine"] == entry
    table = report.table()
    last = [str([*column.cells][-1]) for column in table.columns[:2]]
    assert last == ["openvino fp16", "9.00"]
