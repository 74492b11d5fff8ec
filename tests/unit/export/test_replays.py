"""``check`` runs files of other engines, and graphs of strings and pictures; fakes play both."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.api.bundles import check
from tinyclip_edge.child import ChildError, run_child
from tinyclip_edge.engines import ENGINES
from tinyclip_edge.errors import BundleError
from tinyclip_edge.runtime.bundle import Manifest, list_files
from tinyclip_edge.runtime.golden import decode_embeddings
from tinyclip_export import replays
from tinyclip_export.bundle import golden_folder
from tinyclip_export.engines import registry
from tinyclip_export.layout import TOWER_IO


@pytest.fixture
def bundle(exported, tmp_path):
    return shutil.copytree(exported.folder, tmp_path / "toy")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch, capsys):
    """Fakes do not reach a child; what its program prints still goes through JSON."""

    def run(module, *arguments, timeout):
        assert module == replays.__name__
        replays.main(list(arguments))
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    monkeypatch.setattr(replays, "run_child", run)


def rewrite(folder, change):
    """Write the manifest again, with a change of its extras."""
    manifest = Manifest.read(folder)
    extras = json.loads(json.dumps({**manifest.extras}))
    change(extras)
    replace(manifest, extras=extras, files=list_files(folder)).write(folder)


def add_engine(folder, name, precisions=("fp32", "int8")):
    """Lay the fp32 towers beside the bundle as if an engine's converter had made them."""
    (folder / name).mkdir()
    golden, files = Manifest.read(folder).golden["embeddings"]["fp32"], {}
    for precision in precisions:
        files[precision] = {}
        for tower, io in TOWER_IO.items():
            files[precision][tower] = f"{name}/{tower}_{precision}.bin"
            shutil.copyfile(folder / io.path("fp32"), folder / files[precision][tower])
    entry = {"name": name, "files": files, "inputs": {"batch": 1, "pad_id": 0},
             "golden": dict.fromkeys(precisions, golden)}  # fmt: skip
    rewrite(folder, lambda extras: extras.update(engine=entry))


def open_as_onnx(path, threads):
    assert threads == 1
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


@pytest.fixture
def engine_here(monkeypatch):
    monkeypatch.setattr(replays, "find_spec", lambda module: module)
    monkeypatch.setitem(registry._WRITERS, "litert", lambda: SimpleNamespace(open=open_as_onnx))


def test_files_of_an_engine_are_replayed(bundle, engine_here):
    add_engine(bundle, "litert")
    result = check(bundle, threads=1)
    assert [each.name for each in result.forms] == ["litert fp32", "litert int8"]
    for each in result.forms:
        assert each.cosine == pytest.approx({"image": 1, "text": 1}, abs=1e-5)
        assert each.same_ids and each.ms["image"] > 0
    assert result.passed and not result.not_replayed
    only = check(bundle, precision="int8", threads=1).as_dict()
    assert [each["name"] for each in only["forms"]] == ["litert int8"]
    table = result.table()
    assert [str(each) for each in table.columns[0].cells] == [
        "fp32",
        "int8",
        "litert fp32",
        "litert int8",
    ]


def test_an_engine_that_answers_otherwise_fails_the_check(bundle, engine_here):
    def swap(extras):
        golden = extras["engine"]["golden"]
        golden["int8"] = {**golden["int8"], "image": golden["int8"]["text"]}

    add_engine(bundle, "litert")
    rewrite(bundle, swap)
    result = check(bundle, threads=1)
    (failure,) = result.failures
    assert failure.startswith("litert int8 image cosine") and not result.passed
    assert [str([*column.cells][-1]) for column in result.table().columns][-1] == "FAILED"


def test_an_engine_that_stops_or_ends_its_process_fails_the_check(bundle, monkeypatch, engine_here):
    def stop(path, threads):
        raise ValueError("bad magic number\nat byte 4")

    add_engine(bundle, "litert", ["fp32"])
    monkeypatch.setitem(registry._WRITERS, "litert", lambda: SimpleNamespace(open=stop))
    assert check(bundle).failures == [
        "litert fp32 image_fp32.bin does not load: bad magic number",
    ]

    def end(*_, **__):
        raise ChildError("process ended with -11")

    monkeypatch.setattr(replays, "run_child", end)
    assert check(bundle).failures == ["litert fp32 process ended with -11"]


@pytest.mark.parametrize(
    ("name", "package"),
    [("litert", "ai-edge-litert"), ("openvino", "openvino"), ("executorch", "executorch"),
     ("tensor-flow-9", "a newer tinyclip-edge")],
)  # fmt: skip
def test_what_is_not_replayed_is_one_line_with_the_package(bundle, monkeypatch, name, package):
    add_engine(bundle, name, ["fp32"])
    entries = {"strings": {"files": {"fp32": "a.onnx"}}, "native": {"files": {}}}
    rewrite(bundle, lambda extras: extras.update(entries))
    monkeypatch.setattr(replays, "find_spec", lambda module: None if module != "torch" else module)
    result = check(bundle)
    assert result.passed and not result.forms
    line = (
        f"not replayed: {name} files (needs {package}); graphs of strings (needs "
        "onnxruntime-extensions); native files of None (need its device)"
    )
    assert line in str(result.table().caption)
    assert "; ".join(result.as_dict()["not_replayed"]) == line.removeprefix("not replayed: ")


def add_strings(folder, least=0.999):
    """Lay the text tower as a graph of strings, whose fake session is below."""
    manifest = Manifest.read(folder)
    golden = manifest.golden
    shutil.copyfile(folder / TOWER_IO["text"].path("fp32"), folder / "onnx/strings.onnx")
    (folder / "golden").mkdir()
    text = decode_embeddings(golden["embeddings"]["fp32"]["text"], len(golden["texts"]))
    vectors = {
        "texts": golden["texts"], "pictures": [],
        "least_cosine": {"fp32": {"text": least, "image": 0.999}},
        "embeddings": {"fp32": {"text": text.tolist(), "image": []}},
    }  # fmt: skip
    (folder / golden_folder.VECTORS).write_text(json.dumps(vectors))
    entry = {"files": {"fp32": "onnx/strings.onnx"}}
    rewrite(folder, lambda extras: extras.update(strings=entry))
    return vectors


@pytest.fixture
def extension_here(bundle, monkeypatch):
    clip = EdgeCLIP.load(bundle, precision="fp32")

    def run(outputs, feed):
        (text,) = feed["text"]
        ids = np.array([clip.token_ids(text)])
        return [{"text_embeds": clip.encode_text([text]), "input_ids": ids}[outputs[0]]]

    monkeypatch.setattr(replays, "find_spec", lambda module: module)
    monkeypatch.setattr(
        golden_folder, "open_with_extension", lambda *_, **__: SimpleNamespace(run=run)
    )


def test_graphs_of_strings_are_replayed_on_the_golden_folder(bundle, extension_here):
    vectors = add_strings(bundle)
    (row,) = check(bundle).forms
    assert row.name == "fp32 from strings" and not row.failures
    assert row.cosine["text"] == pytest.approx(1, abs=1e-5) and row.same_ids
    cells = [str([*column.cells][-1]) for column in check(bundle).table().columns]
    assert cells[:4] == ["fp32 from strings", "–", "1.00000", "–"] and cells[5:7] == ["equal", "–"]

    vectors["texts"][0]["input_ids"][1] += 1
    vectors["embeddings"]["fp32"]["text"].reverse()
    (bundle / golden_folder.VECTORS).write_text(json.dumps(vectors))
    rewrite(bundle, lambda extras: None)
    first, second = check(bundle).failures
    assert first == "fp32 from strings texts give different token ids"
    assert second.startswith("fp32 from strings text cosine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda vectors: vectors.pop("least_cosine"), "no golden vectors of fp32 strings"),
        (lambda vectors: vectors["embeddings"]["fp32"]["text"].pop(), "not have 4 embeddings of"),
        (lambda vectors: vectors.update(texts=7), "no golden vectors of fp32 strings"),
    ],
)
def test_a_broken_golden_folder_is_one_line(bundle, extension_here, change, message):
    vectors = add_strings(bundle)
    change(vectors)
    (bundle / golden_folder.VECTORS).write_text(json.dumps(vectors))
    rewrite(bundle, lambda extras: None)
    (failure,) = check(bundle).failures
    assert message in failure


@pytest.mark.parametrize("entry", ["x", {"name": "litert"}, {"files": {}}, ["litert"]])
def test_extras_that_list_no_files_are_refused(bundle, entry):
    rewrite(bundle, lambda extras: extras.update(engine=entry))
    with pytest.raises(BundleError, match="its extras do not list their files"):
        check(bundle)


def test_a_file_outside_the_bundle_is_not_opened(bundle, engine_here):
    add_engine(bundle, "litert", ["fp32"])
    rewrite(bundle, lambda extras: extras["engine"]["files"]["fp32"].update(text="../secret"))
    (failure,) = check(bundle, threads=1).failures
    assert "../secret is not listed in manifest.json" in failure


def test_the_replaying_process_answers_without_torch_or_onnx(bundle):
    add_engine(bundle, "openvino", ["fp32"])
    result = run_child(replays.__name__, "openvino", str(bundle), "int8", "", timeout=100)
    assert "does not describe its int8 files" in result["error"]
    code = (
        "import sys, tinyclip_export.replays, tinyclip_export.engines.replay\n"
        "from tinyclip_export.engines.registry import writer_of\n"
        "writer_of('openvino'), writer_of('litert')\n"
        "print(*sorted({'torch', 'onnx', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()


def test_engines_name_what_runs_their_files():
    for engine in ENGINES.values():
        assert engine.runs_with and set(engine.runs_with.values())
