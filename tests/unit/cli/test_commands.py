"""What commands hand on and say, and what a missing package looks like."""

import importlib
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer

from tiny_bundle import write_tiny_bundle
from tinyclip_edge.cli import app as app_module
from tinyclip_edge.cli.export import run_export
from tinyclip_edge.cli.export_options import ExportOptions, PrecisionOptions
from tinyclip_edge.evaluation.eval_set import EvalSet


@pytest.mark.parametrize(
    ("package", "extra"),
    [
        ("torch", "distill"),
        ("open_clip", "distill"),
        ("webdataset", "distill"),
        ("braceexpand", "distill"),
        ("huggingface_hub", "distill"),
        ("matplotlib", "distill"),
        ("onnx", "export"),
        ("onnxscript", "export"),
        ("transformers", "huggingface"),
        ("gradio", "demo"),
    ],
)
def test_missing_package_names_its_extra(monkeypatch, command_line, package, extra):
    app = typer.Typer()
    app.command()(lambda: importlib.import_module(f"{package}.part") and None)
    monkeypatch.setattr(app_module, "app", app)
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = command_line()
    assert code == 2
    assert err == (
        f"error: this command needs the package '{package}', which is not installed; "
        f"run: pip install 'tinyclip-edge[{extra}]'\n"
    )


def test_another_missing_module_is_a_fault_of_ours(monkeypatch):
    app = typer.Typer()
    app.command()(lambda: importlib.import_module("tinyclip_edge.nowhere") and None)
    monkeypatch.setattr(app_module, "app", app)
    monkeypatch.setattr(sys, "argv", ["tinyclip-edge"])
    with pytest.raises(ModuleNotFoundError):
        app_module.main()


def test_a_command_without_torch_is_one_line():
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['tinyclip-edge', 'inherit'];"
        "from tinyclip_edge.cli.app import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "pip install 'tinyclip-edge[distill]'" in done.stderr


@pytest.mark.parametrize(("flags", "opens"), [((), False), (("--open",), True)])
def test_demo_opens_the_browser_only_on_request(monkeypatch, command_line, tmp_path, flags, opens):
    launched = {}
    bundle = tmp_path / "bundle"
    write_tiny_bundle(bundle)
    monkeypatch.setattr("tinyclip_demo.open_gallery", lambda images: images)
    monkeypatch.setattr("tinyclip_demo.launch", lambda *_args, **options: launched.update(options))
    assert command_line("demo", "--teacher", bundle, "--student", bundle, *flags)[0] == 0
    assert launched["open_browser"] is opens


def test_export_reports_skipped_pairs(monkeypatch, capsys):
    pairs = EvalSet("mine", (), (), notes=("2 images could not be decoded: a.png, b.png",))
    monkeypatch.setattr(
        "tinyclip_edge.api.exporting.check_request", lambda *_args, **_options: None
    )
    monkeypatch.setattr("tinyclip_edge.models.load_clip", lambda _name: SimpleNamespace(name="m"))
    monkeypatch.setattr("tinyclip_edge.evaluation.evaluation_set", lambda _data, limit: pairs)
    monkeypatch.setattr("tinyclip_export.export_bundle", lambda *_args, **_options: None)
    run_export("m", ExportOptions(PrecisionOptions(int8=True)))
    assert "2 images could not be decoded: a.png, b.png\n" in capsys.readouterr().err


def test_help_of_export_offers_no_bundle(command_line):
    code, of_export, _ = command_line("export", "--help")
    assert code == 0
    code, of_eval, _ = command_line("eval", "--help")
    assert code == 0
    assert "a bundle folder" in " ".join(of_eval.split())
    assert "a bundle folder" not in " ".join(of_export.split())
