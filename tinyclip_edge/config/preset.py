"""Export settings for a target: shipped in ``configs/export``, selected by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import Field, ValidationError, field_validator, model_validator

from tinyclip_edge import targets
from tinyclip_edge.config.load import YAML_SUFFIXES, configs_path, read_yaml
from tinyclip_edge.config.renamed import rename_preset_values
from tinyclip_edge.config.section import Section
from tinyclip_edge.engines import ENGINES
from tinyclip_edge.errors import ConfigError, did_you_mean, shown
from tinyclip_edge.paths import is_file
from tinyclip_edge.plugins import TARGETS, load_plugin, plugin_names
from tinyclip_edge.precisions import check_precisions

Table = Literal["8 bit", "4 bit", "3 bit", "float"]
Range = Literal["overflow_safe", "7 bit", "8 bit"]
TABLES = {8: "8 bit", 4: "4 bit", 3: "3 bit", 32: "float"}


class DynamicInt8(Section):
    """Precision int8: activation ranges are computed at run time."""

    weights: Literal["int8", "uint8"] = Field(
        default="int8", description="uint8 never overflows, but is slower on CPUs with VNNI."
    )
    weight_range: Range = Field(
        default="overflow_safe",
        description=(
            "overflow_safe (no pair of neighbouring weights overflows 16 bits) and 7 "
            "bit are correct on every CPU; 8 bit is slow on x86 without VNNI."
        ),
    )
    token_table: Table = Field(
        default="8 bit",
        description=(
            "Bits of the token table; 3 bit: one byte for three values, from codebooks of its own."
        ),
    )
    attention: Literal["nodes", "multi_head", "operator"] = Field(
        default="nodes",
        description=(
            "nodes: for all engines and providers; multi_head: onnxruntime's own operator for "
            "processors, in 1.20 and later, which is faster; operator: ONNX's Attention, which "
            "requires onnxruntime 1.23 and is faster still for one picture. A tower with a "
            "different kind of attention keeps its separate nodes."
        ),
    )
    norms: Literal["layer", "simplified", "rms"] = Field(
        default="layer",
        description=(
            "layer: ordinary layer norms; simplified: onnxruntime's own operator without mean "
            "subtraction (the mean is removed from the weights instead), which is faster; rms: the "
            "same as ONNX's operator, which requires onnxruntime 1.23. Towers with layer scale "
            "keep ordinary layer norms."
        ),
    )
    feed_forward: Literal["whole", "halves"] = Field(
        default="whole",
        description=(
            "halves: split the feed-forward layers of image towers that have 0.5 to 1 "
            "MB of weights each; faster with one thread, slower with several."
        ),
    )


class StaticInt8(Section):
    """Precision static: activation ranges are measured beforehand."""

    weight_range: Range = Field(default="overflow_safe", description="As int8.weight_range.")
    token_table: Table = Field(
        default="8 bit",
        description=(
            "Bits of the token table; 3 bit: one byte for three values, from codebooks of its own."
        ),
    )
    inputs: int = Field(
        default=128, ge=1, description=("Number of pairs on which ranges are measured.")
    )
    symmetric: bool = Field(
        default=False,
        description="Zero points of 0 and float biases, as TensorRT requires.",
    )


class WideActivations(Section):
    """Precision a16w8: activation ranges are measured beforehand."""

    inputs: int = Field(
        default=128, ge=1, description="Number of pairs on which ranges are measured."
    )


class WeightOnly(Section):
    """Only weights are quantized: w8, q4 and similar precisions."""

    block: int = Field(default=32, ge=16, description="Weights that share a scale; a power of two.")
    token_table: Table = Field(default="4 bit", description="Bits of the token table; w8 has 8.")
    rounding: Literal["gptq", "nearest"] = Field(
        default="gptq",
        description=(
            "gptq: weights of 4 bits and their token table are rounded so that the outputs on "
            "calibration pairs change least; nearest: each value by itself."
        ),
    )
    inputs: int = Field(default=512, ge=1, description="Number of calibration pairs of gptq.")


class TowerInputs(Section):
    """Fixed shapes and types of the towers' inputs, for engines that require them."""

    batch: int | None = Field(
        default=None,
        ge=1,
        description="Fixed batch size; texts then have the context length. --static-batch sets it "
        "too.",
    )
    ids: Literal["int64", "int32"] = Field(
        default="int64", description="Type of token ids; int32 for engines without 64-bit integers."
    )


class EngineFiles(Section):
    """Files for an engine other than onnxruntime, in addition to the ONNX files."""

    name: Literal["openvino", "litert", "executorch"] | None = Field(
        default=None, description="The engine, whose packages are an extra of the same name."
    )
    precisions: list[str] = Field(
        default_factory=list,
        description="Precisions in its format; each must pass the gates of the ONNX file.",
    )

    @model_validator(mode="after")
    def _made_by_the_engine(self) -> EngineFiles:
        known = ENGINES[self.name].precisions if self.name is not None else ()
        for precision in self.precisions:
            if precision not in known:
                hint = f"; it has {', '.join(known)}" if known else "; set engine.name first"
                raise ConfigError(f"engine {self.name} has no precision '{precision}'{hint}")
        if self.name is not None and not self.precisions:
            raise ConfigError(f"engine {self.name} needs precisions: {', '.join(known)}")
        return self


class ExportPreset(Section):
    """Precisions and settings for a target."""

    target: str | None = Field(
        default=None,
        description="Name, in the table of targets, of the target whose rules every file must "
        "follow; the manifest records it.",
    )
    inputs: TowerInputs = Field(default_factory=TowerInputs, description="Inputs of the towers.")
    operators: Literal["all", "plain"] = Field(
        default="all",
        description=(
            "plain: patches by a Conv, texts pooled by a product with a one-hot mark of their end, "
            "norms as basic operators, for engines without ArgMax, ReduceL2 or six-axis tensors."
        ),
    )
    pipeline: bool = Field(
        default=True,
        description="Add the file of both towers that the pipeline of transformers.js requires.",
    )
    engine: EngineFiles = Field(
        default_factory=EngineFiles, description="Files for an engine other than onnxruntime."
    )
    precisions: list[str] = Field(
        default=["fp32", "int8"],
        min_length=1,
        description="Precisions to write in addition to those on the command line.",
    )
    int8: DynamicInt8 = Field(default_factory=DynamicInt8, description="Dynamic int8.")
    static: StaticInt8 = Field(default_factory=StaticInt8, description="Static int8.")
    wide: WideActivations = Field(
        default_factory=WideActivations, description="16-bit activations with 8-bit weights."
    )
    weight_only: WeightOnly = Field(default_factory=WeightOnly, description="4 and 8 bit weights.")
    convolutions: Literal["static", "dynamic"] = Field(
        default="static",
        description=(
            "Kind of int8 for image towers of large convolutions, such as a ResNet; those of "
            "depthwise and pointwise convolutions, such as FastViT, are always dynamic."
        ),
    )

    @field_validator("precisions")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        return list(check_precisions(names))

    @field_validator("target")
    @classmethod
    def _in_table(cls, name: str | None) -> str | None:
        if name is not None and name not in targets.TARGETS:
            raise ConfigError(f"target '{name}' is unknown{did_you_mean(name, targets.TARGETS)}")
        return name

    def to_nearest(self) -> ExportPreset:
        """Return a copy that rounds each weight by itself, as ``--qat`` does."""
        weights = self.weight_only.model_copy(update={"rounding": "nearest"})
        return self.model_copy(update={"weight_only": weights})

    def with_token_table(self, bits: int) -> ExportPreset:
        """Return a copy with another number of bits for the token table. Raises ConfigError."""
        if bits not in TABLES:
            raise ConfigError(f"the token table can have 8, 4, 3 or 32 bits, not {bits}")
        table = {"token_table": TABLES[bits]}
        sections = {key: getattr(self, key) for key in ("int8", "static", "weight_only")}
        return self.model_copy(
            update={key: part.model_copy(update=table) for key, part in sections.items()}
        )


def allowed_values(section: type[Section]) -> dict[str, tuple[str, ...]]:
    """Return the allowed values of each key of a section with fixed choices."""
    return {
        key: get_args(field.annotation)
        for key, field in section.model_fields.items()
        if get_origin(field.annotation) is Literal
    }


def preset_names() -> list[str]:
    """Return the names of the shipped presets."""
    shipped = (path.stem for path in (configs_path() / "export").glob("*.yaml"))
    return sorted({*shipped, *plugin_names(TARGETS)})


def load_preset(name_or_path: str | Path) -> ExportPreset:
    """Read a preset by shipped name or path. Raises ConfigError, naming the key."""
    path = Path(name_or_path)
    if str(name_or_path) in plugin_names(TARGETS):
        added = load_plugin(TARGETS, str(name_or_path))
        if isinstance(added, Mapping):
            return _preset(dict(added), Path(str(name_or_path)))
        path = Path(added)
    if not is_file(path):
        shipped = configs_path() / "export" / f"{path.name}.yaml"
        if path.suffix in YAML_SUFFIXES or len(path.parts) != 1 or not is_file(shipped):
            hint = did_you_mean(str(name_or_path), preset_names())
            names = ", ".join(preset_names())
            list_of_names = "" if names in hint else f"; known: {names}"
            raise ConfigError(f"target '{name_or_path}' is unknown{hint}{list_of_names}")
        path = shipped
    return _preset(read_yaml(path), path)


def _preset(raw: dict[str, Any], path: Path) -> ExportPreset:
    rename_preset_values(raw, str(path))
    try:
        return ExportPreset.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_explain(error, path, raw)) from None
    except ConfigError as error:  # from a validator
        raise ConfigError(f"{path}: {error}") from None


def _explain(error: ValidationError, path: Path, raw: dict[str, Any]) -> str:
    fault = error.errors(include_url=False)[0]
    parts = [str(part) for part in fault["loc"]]
    key = ".".join(parts)
    if fault["type"] != "extra_forbidden":
        return (
            f"{path}: {key} is {shown(fault['input'])}; {fault['msg'][0].lower()}{fault['msg'][1:]}"
        )
    section: type[Any] = ExportPreset
    for part in parts[:-1]:
        section = section.model_fields[part].annotation
    return f"{path}: unknown key '{key}'{did_you_mean(parts[-1], section.model_fields)}"
