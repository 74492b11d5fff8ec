"""The whole way from Python: inherit, distil, evaluate, convert, export, check."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tinyclip_edge
from tinyclip_edge.api import QatRequest, VerificationRequest
from tinyclip_edge.config import RunConfig
from tinyclip_edge.errors import ConfigError, DataError, ModelError, TinyClipError
from tinyclip_edge.evaluation import evaluate_model, open_embedder
from toy_runs import STUDENT, losses


@pytest.fixture
def config(shards, toy_teacher_folder):
    return {
        "name": "toy",
        "teacher": {"model": str(toy_teacher_folder)},
        "student": {"model": STUDENT},
        "loss": {"teacher_logit_scale": 100.0},
        "data": {"train": str(shards / "train-*.tar*"), "val": str(shards / "val.tar")},
        "optim": {"lr": 1e-3, "batch_size": 16, "steps": 6},
        "run": {"device": "cpu", "log_every": 1, "save_every": 3},
    }


def test_from_a_mapping_to_a_bundle(config, shards, tmp_path, monkeypatch, no_report):
    monkeypatch.chdir(tmp_path)
    inherited = tinyclip_edge.inherit(config)
    assert inherited.student == Path("runs/toy-step0/student")
    written = json.loads((inherited.folder / "report.json").read_text())
    assert written == json.loads(json.dumps(inherited.as_dict()))
    assert "<pre" in inherited._repr_html_()

    steps = []
    result = tinyclip_edge.distill(
        config, overrides=["optim.steps=4"], callback=lambda report: steps.append(report.step),
        progress=False,
    )  # fmt: skip
    assert (str(result.out), result.steps, steps) == ("runs/toy", 4, [1, 2, 3, 4])
    html = result._repr_html_()
    assert f"{result.evaluations[4]['t2i_r1'] * 100:.1f} %" in html and "teacher" in html

    val = str(shards / "val.tar")
    measured = tinyclip_edge.evaluate(result.student, data=val)
    embedder = open_embedder(str(result.student))
    assert measured.rows == evaluate_model(embedder, data=val).rows
    assert measured.rows[0].retrieval.n == result.evaluations[4]["images"] == 48
    assert measured.model in measured._repr_html_()

    lines = []
    exported = tinyclip_edge.export(
        result.out, "bundle", precisions=["fp32"], verification=VerificationRequest(val, 24),
        callback=lines.append,
    )  # fmt: skip
    assert lines[0] == f"exporting runs/toy to bundle, verified on 24 pairs of {val}"
    assert exported.precisions == ("fp32",) and "fp32" in exported._repr_html_()
    checked = tinyclip_edge.check("bundle")
    assert checked.passed and [each.precision for each in checked.replays] == ["fp32"]
    assert "golden vectors" in checked._repr_html_()
    clip = tinyclip_edge.EdgeCLIP.load("bundle")
    assert clip.encode_text(["a red cat"]).shape == (1, clip.spec.embedding_dim)

    conversion = tinyclip_edge.convert(result.student, "converted")
    assert "architecture" in conversion._repr_html_()
    again = tinyclip_edge.load_clip("converted")
    assert again.config["model_cfg"]["vision_cfg"]["layers"] == STUDENT["vision_cfg"]["layers"]


def test_a_run_goes_on_as_its_first_call_would_have(config, tmp_path, no_report):
    whole = tinyclip_edge.distill(config, tmp_path / "whole", progress=False)

    def stop(report):
        if report.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tinyclip_edge.distill(config, tmp_path / "cut", callback=stop, progress=False)
    result = tinyclip_edge.distill(out=tmp_path / "cut", resume=True, progress=False)
    assert result.steps == whole.steps == 6
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_resumed_run_needs_its_list_of_texts_no_more(config, tmp_path, no_report):
    """Its vocabulary is in its folder, as for the command."""
    texts = tmp_path / "texts.txt"
    texts.write_text("a red cat\n")
    config["student"]["vocab"] = str(texts)

    def stop(report):
        if report.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tinyclip_edge.distill(config, tmp_path / "run", callback=stop, progress=False)
    texts.unlink()
    assert tinyclip_edge.distill(out=tmp_path / "run", resume=True, progress=False).steps == 6
    with pytest.raises(DataError, match=r"texts\.txt"):
        tinyclip_edge.distill(config, tmp_path / "new", progress=False)


def test_a_configuration_may_be_a_model(config, tmp_path, no_report):
    run = RunConfig.model_validate(config)
    result = tinyclip_edge.distill(run, tmp_path / "run", overrides=["optim.steps=1"],
                                   progress=False)  # fmt: skip
    assert result.steps == 1 and run.optim.steps == 6


MISTAKES = [
    ("distill('starterr')", ConfigError, "did you mean 'starter'"),
    ("distill({'teacher': {}})", ConfigError, "configuration: key "),
    ("distill('starter', overrides=['optim.stepz=3'])", ConfigError, "stepz"),
    ("distill(5)", ConfigError, "expected a mapping, a name or a path"),
    ("distill(resume=True)", ConfigError, "needs out"),
    ("distill(out='nowhere', resume=True)", TinyClipError, "cannot resume nowhere"),
    ("distill('starter', overrides=['data.train=none/*.tar'])", DataError, "data.train: "),
    ("inherit('starter', overrides=['inherit.method=none'])", ConfigError, "nothing to"),
    ("evaluate('nowhere')", ModelError, "nowhere"),
    ("export('nowhere')", ModelError, "nowhere"),
    ("export('starter-teacher', precisions=['int9'])", ConfigError, "int9"),
    ("convert('nowhere', 'out')", ModelError, "nowhere"),
    ("convert('nowhere', 'out', layout='gguf')", ConfigError, "layout 'gguf'"),
    ("check('nowhere')", TinyClipError, "nowhere"),
]
MAKE_MISTAKES = """
import json, sys, tinyclip_edge, tinyclip_edge.errors
for call in json.load(sys.stdin):
    try:
        eval(f"tinyclip_edge.{call}")
    except tinyclip_edge.errors.TinyClipError as error:
        names = [each.__name__ for each in type(error).__mro__]
        print(json.dumps([str(error), names, "torch" in sys.modules]))
"""


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    """Message, names of the classes, and whether torch was imported, of each mistake."""
    folder = tmp_path_factory.mktemp("mistakes")
    done = subprocess.run(
        [sys.executable, "-c", MAKE_MISTAKES], input=json.dumps([call for call, _, _ in MISTAKES]),
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert list(folder.iterdir()) == []
    answers = map(json.loads, done.stdout.splitlines())
    return dict(zip([call for call, _, _ in MISTAKES], answers, strict=True))


@pytest.mark.parametrize(("call", "error", "words"), MISTAKES)
def test_mistakes_are_told_before_torch_is_imported(mistakes, call, error, words):
    message, classes, torch_imported = mistakes[call]
    assert error.__name__ in classes
    assert words in message and "\n" not in message
    assert not torch_imported


def printed(code):
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_package_has_the_names_and_nothing_heavy():
    code = (
        "import sys, tinyclip_edge; from tinyclip_edge import distill, export, evaluate, inherit, "
        "check, convert; assert callable(inherit) and callable(evaluate); "
        "print([n for n in ('torch', 'onnxruntime', 'onnx', 'gradio') if n in sys.modules])"
    )
    assert printed(code) == "[]\n"
    assert set(tinyclip_edge.__all__) <= set(dir(tinyclip_edge))


def test_an_old_import_does_not_hide_a_function():
    code = (
        "import warnings; warnings.simplefilter('ignore'); import tinyclip_edge; "
        "from tinyclip_edge.inherit import InheritanceReport; "
        "print(callable(tinyclip_edge.inherit))"
    )
    assert printed(code) == "True\n"


def test_qat_names_its_steps_and_pairs():
    assert QatRequest(20).data is None
