"""Which recipe makes which file."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from tinyclip_edge.api.exporting import preset_of
from tinyclip_edge.config.preset import (
    DynamicInt8,
    ExportPreset,
    StaticInt8,
    WeightOnly,
    allowed_values,
    load_preset,
    preset_names,
)
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.precisions import PRECISIONS
from tinyclip_edge.runtime import cpu
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_export.quantization.dynamic_int8 import Int8Recipe
from tinyclip_export.quantization.mixed_precision import MixedPrecision
from tinyclip_export.quantization.registry import recipe_dicts, recipes_for
from tinyclip_export.quantization.static_int8 import StaticRecipe
from tinyclip_export.quantization.weight_only import WeightOnlyRecipe

NAMES = ("fp16", "int8", "uint8", "static", "a16w8", "w8", "q4", "q4f16", "bnb4")


@pytest.mark.parametrize("target", ["android", "browser", "x86"])
@pytest.mark.parametrize("convolutional", [False, True])
def test_files_for_an_unknown_processor_need_no_exact_kernel(target, convolutional):
    preset = load_preset(target)
    assert not recipes_for("int8", preset, convolutional=convolutional).saturates


@pytest.mark.parametrize("target", preset_names())
@pytest.mark.parametrize("convolutional", [False, True])
def test_every_target_makes_every_precision(target, convolutional):
    preset = load_preset(target)
    for name in NAMES:
        recipes = recipes_for(name, preset, convolutional=convolutional)
        settings = recipes.as_dict()
        image = settings.get("image", settings)
        assert settings.get("reduce_range", True) is not recipes.text.saturates
        assert image.get("reduce_range", True) is not recipes.image.saturates
        # Only what computes in integers may overflow.
        assert recipes.integer == (name in ("int8", "uint8", "static", "a16w8"))
        assert recipes.searchable == (name not in ("fp16", "a16w8"))


def test_the_images_of_a_resnet_are_static_in_its_int8_file():
    recipes = recipes_for("int8", ExportPreset(), convolutional=True)
    assert (type(recipes.image), type(recipes.text)) == (StaticRecipe, Int8Recipe)
    settings = recipes.as_dict()
    assert (settings["kind"], settings["image"]["kind"]) == ("dynamic", "static")
    dynamic = ExportPreset(convolutions="dynamic")
    assert type(recipes_for("int8", dynamic, convolutional=True).image) is Int8Recipe


@pytest.mark.parametrize(
    ("target", "safe"),
    [
        ("x86", True),
        ("x86-avx2", True),
        ("browser", True),
        ("x86-vnni", False),
        ("x86-vnni-single", False),
        ("arm64", False),
    ],
)
def test_the_runtime_reads_whether_a_kernel_may_overflow(target, safe):
    recipes = {
        name: recipes_for(name, load_preset(target), convolutional=False)
        for name in ("int8", "static", "q4", "uint8")
    }
    settings = recipe_dicts(recipes, ("fp32", "int8", "static", "uint8"))
    assert settings["fp32"] == {"kind": "float"}
    manifest = SimpleNamespace(recipe=settings)
    for tower in ("image", "text"):
        for name in ("int8", "static"):
            assert Manifest.saturates(manifest, tower, name) is not safe
        for name in ("fp32", "uint8"):
            assert Manifest.saturates(manifest, tower, name) is False


@pytest.mark.parametrize("kind", ["x86", "x86-avx2", "x86-vnni", "arm64"])
def test_target_auto_is_that_of_this_machine(monkeypatch, kind):
    monkeypatch.setattr(cpu, "processor", lambda: kind)
    assert preset_of("auto") == load_preset(kind)
    monkeypatch.setattr(cpu, "processor", lambda: None)
    with pytest.raises(ConfigError, match="neither x86 nor 64-bit ARM; leave out --target"):
        preset_of("auto")


def test_a_choice_stands_in_the_recipe():
    recipes = {"int8": recipes_for("int8", ExportPreset(), convolutional=False)}
    choice = MixedPrecision({"image": 0.5}, {"text": ("body.0.up",)})
    settings = recipe_dicts(recipes, ("int8",), {"int8": choice})["int8"]
    assert settings["smooth"] == {"image": 0.5, "text": 0.0}
    assert settings["keep_float"] == {"image": [], "text": ["body.0.up"]}
    assert "smooth" not in recipe_dicts(recipes, ("int8",), {"int8": MixedPrecision()})["int8"]


def test_bits_of_the_token_table_reach_all_recipes():
    preset = ExportPreset().with_token_table(4)
    for name in ("int8", "static", "q4"):
        recipe = recipes_for(name, preset, convolutional=False).text
        assert recipe.token_table == "4 bit"
    with pytest.raises(ConfigError, match="8, 4, 3 or 32 bits, not 5"):
        preset.with_token_table(5)


def test_only_weights_of_4_bits_are_rounded_by_calibration_pairs():
    recipes = {
        name: recipes_for(name, ExportPreset(), convolutional=False).text
        for name in ("q4", "q4f16", "w8", "bnb4")
    }
    compensating = [name for name, recipe in recipes.items() if recipe.compensates]
    assert compensating == ["q4", "q4f16"]
    assert recipes["q4"].roundings == recipes["q4f16"].roundings  # so that one rounding serves both
    assert recipes["w8"].as_dict()["rounding"] == "nearest"
    nearest = recipes_for("q4", ExportPreset().to_nearest(), convolutional=False).text
    assert not nearest.compensates


def test_a_target_that_is_unknown_or_wrong_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'browser'"):
        load_preset("brwser")
    path = tmp_path / "mine.yaml"
    path.write_text("int8: {weihgts: int8}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: unknown key 'int8\.weihgts'; did you mean"):
        load_preset(path)
    path.write_text("int8: {weights: int9}\n")
    with pytest.raises(ConfigError, match=r"int8\.weights is 'int9'"):
        load_preset(path)


@pytest.mark.parametrize(
    ("section", "recipe"),
    [(DynamicInt8, Int8Recipe), (StaticInt8, StaticRecipe), (WeightOnly, WeightOnlyRecipe)],
)
def test_a_recipe_has_the_defaults_of_its_preset_section(section, recipe):
    defaults = section().model_dump()
    assert defaults.items() <= asdict(recipe()).items()


@pytest.mark.parametrize(
    ("section", "recipe"),
    [(DynamicInt8, Int8Recipe), (StaticInt8, StaticRecipe), (WeightOnly, WeightOnlyRecipe)],
)
def test_a_recipe_takes_the_values_of_its_preset_section_alone(section, recipe):
    for key, values in allowed_values(section).items():
        for value in set(values) - {"uint8"}:  # not with the default range
            assert getattr(recipe(**{key: value}), key) == value
        with pytest.raises(ConfigError, match=f"{key} 'other' is unknown"):
            recipe(**{key: "other"})


def test_every_recipe_is_understood_by_the_runtime(tiny_bundle):
    names = [name for name in PRECISIONS if name != "fp32"]
    path = tiny_bundle.folder / "manifest.json"
    content = json.loads(path.read_text())
    for target in preset_names():
        for convolutional in (False, True):
            preset = load_preset(target)
            by_precision = {n: recipes_for(n, preset, convolutional=convolutional) for n in names}
            recipe = recipe_dicts(by_precision, tuple(PRECISIONS))
            path.write_text(json.dumps({**content, "recipe": recipe}))
            manifest = Manifest.read(tiny_bundle.folder)
            for name, recipes in by_precision.items():
                assert manifest.saturates("image", name) is recipes.image.saturates, name
                assert manifest.saturates("text", name) is recipes.text.saturates, name
