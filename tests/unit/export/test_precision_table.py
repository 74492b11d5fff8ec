"""A precision is one entry of a table: added here at run time, it is there wherever they are."""

import importlib

import pytest
from typer.testing import CliRunner

from tinyclip_edge import precisions
from tinyclip_edge.config.preset import ExportPreset, load_preset
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.precisions import PRECISIONS, Precision, check_precisions, register
from tinyclip_edge.runtime.golden import replay_cosine
from tinyclip_export.bundle import label_classifier, pipeline_file
from tinyclip_export.layout import TOWER_IO
from tinyclip_export.quantization.registry import KINDS, recipes_for
from tinyclip_export.verification import gates
from tinyclip_export.verification.metrics import CosineStats

# As transformers.js names its dtypes; it has none for `static` and `w8`.
TRANSFORMERS_JS = {
    "fp32": "", "fp16": "_fp16", "int8": "_quantized", "uint8": "_uint8", "q4": "_q4",
    "q4f16": "_q4f16", "bnb4": "_bnb4",
}  # fmt: skip


@pytest.fixture
def wide():
    """A precision that nobody shipped: 8-bit weights in blocks of 64."""
    entry = register(
        Precision(
            name="w8wide",
            description="weights in 8 bits, blocks of 64",
            suffix="_w8wide",
            recipe="weight only",
            options={"weights": "8 bit", "block": 64},
            aliases=("wide",),
            least_cosine=0.97,
            replay_cosine=0.995,
        )
    )
    yield entry
    del PRECISIONS[entry.name]


def test_a_new_entry_is_written_where_its_suffix_says(wide):
    assert TOWER_IO["image"].path("w8wide") == "onnx/vision_model_w8wide.onnx"
    assert label_classifier.classifier_path("w8wide") == "onnx/classifier_w8wide.onnx"
    assert pipeline_file.combined_path("w8wide") == "onnx/model_w8wide.onnx"


def test_a_new_entry_uses_the_recipe_of_its_kind(wide):
    recipes = recipes_for("w8wide", ExportPreset(), convolutional=False)
    assert recipes.image == recipes.text
    assert (recipes.text.weights, recipes.text.block) == ("8 bit", 64)
    assert recipes.text.token_table == "8 bit"  # the preset's 4 bits would be fewer than the layers


def test_a_new_entry_is_available_to_presets_and_to_the_command_line(wide, tmp_path):
    assert check_precisions(["wide", "w8wide"]) == ("w8wide",)
    preset = tmp_path / "mine.yaml"
    preset.write_text("precisions: [fp32, wide]\n")
    assert load_preset(preset).precisions == ["fp32", "w8wide"]


def test_a_new_entry_is_in_the_help_of_the_command(wide):
    import typer

    from tinyclip_edge.cli import export, export_options

    app = typer.Typer()
    importlib.reload(export_options)
    app.command()(importlib.reload(export).export)
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert "w8wide" in shown


def test_a_new_entry_has_its_own_gates(wide):
    stats = CosineStats(cosine_min=0.9, cosine_p1=0.96, snr_db=12.0)
    with pytest.raises(gates.ValuesError, match=r"cosine 0\.96000 is below 0\.97"):
        gates.check_values(
            "w8wide", "w8wide image", stats, gates.least_cosine("w8wide", convolutional=True)
        )
    assert replay_cosine("w8wide") == 0.995


def test_a_new_entry_is_in_the_table_that_readers_see(wide):
    assert "| `w8wide` | `vision_model_w8wide.onnx` | weights in 8 bits, blocks of 64 |" in (
        precisions.markdown_table().splitlines()
    )


@pytest.mark.parametrize(
    "duplicate",
    [{"name": "int8"}, {"name": "q8"}, {"aliases": ("w8",)}, {"suffix": "_quantized"}],
)
def test_a_name_or_a_suffix_is_unique(duplicate):
    entry = {"name": "mine", "suffix": "_mine", "description": "", "recipe": "dynamic", **duplicate}
    with pytest.raises(ConfigError, match=r"already in the table|is that of int8"):
        register(Precision(**entry))
    assert "mine" not in PRECISIONS


def test_files_have_the_names_that_transformers_js_asks_for():
    assert {name: PRECISIONS[name].suffix for name in TRANSFORMERS_JS} == TRANSFORMERS_JS


def test_every_kind_of_recipe_can_be_created():
    assert {entry.recipe for entry in PRECISIONS.values()} - {""} == set(KINDS)


def test_help_names_every_precision():
    from tinyclip_edge.cli.app import app

    shown = CliRunner().invoke(app, ["export", "--help"], env={"COLUMNS": "200"}).output
    assert all(name in shown for name in PRECISIONS)
