"""The package and its command line start fast and without the training stack."""

import json
import subprocess
import sys

HEAVY = ("torch", "open_clip", "gradio", "transformers", "optimum", "accelerate", "onnx")


def run_python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_after(statement):
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    modules = set(json.loads(run_python(code).splitlines()[-1]))
    return [name for name in HEAVY if name in modules]


def test_import_of_the_package_brings_nothing_heavy():
    assert loaded_after("import tinyclip_edge") == []


def test_runtime_class_brings_no_training_framework():
    assert loaded_after("from tinyclip_edge import EdgeCLIP") == []


def test_command_line_module_brings_nothing_heavy():
    assert loaded_after("import tinyclip_edge.cli.app") == []


def test_help_imports_no_library_but_the_one_that_prints_it():
    code = (
        "import runpy, sys; sys.argv = ['tinyclip-edge', '--help']\n"
        "try: runpy.run_module('tinyclip_edge', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}"
        " & {'numpy', 'PIL', 'pydantic', 'yaml', 'rich', 'onnxruntime', 'tokenizers'}))"
    )
    *helped, loaded = run_python(code).splitlines()
    assert any("distill" in line for line in helped)
    assert loaded == "[]"


def test_a_command_imports_no_other():
    code = (
        "import sys; sys.argv = ['tinyclip-edge', 'check', '--help']\n"
        "from tinyclip_edge.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.startswith('tinyclip_edge.cli.')))"
    )
    *helped, loaded = run_python(code).splitlines()
    assert helped[0].startswith("Usage: tinyclip-edge check ")
    names = (
        *("app", "check", "commands", "device_options", "option_groups", "options"),
        *("termination", "verbosity"),
    )
    assert loaded == str([f"tinyclip_edge.cli.{name}" for name in names])
