"""The schema of a bundle's ``manifest.json``; the web page has a generated copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import BundleError, shown

FORMAT = "tinyclip-edge-bundle"
FORMAT_VERSION = 1
CONFIG_FILES = ("preprocessor_config.json", "tokenizer.json")
LARGEST = 1 << 20  # of sizes and token ids, so that a manifest cannot exhaust memory

# Name of a type in messages, and the Python types.
KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "a whole number": (int,),
    "a number": (int, float),
    "an object": (dict,),
}


@dataclass(frozen=True, slots=True)
class ManifestKey:
    """One key, dotted below an object; ``*`` matches every name of an object."""

    key: str
    kind: str
    description: str
    required: bool = True
    minimum: float | None = None
    above: float | None = None  # an exclusive minimum
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that differ from the defaults, for JSON."""
        defaults = ManifestKey("", "", "")
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value != getattr(defaults, name)
        }

    def check(self, path: Path, name: str, value: object) -> None:
        """Raise BundleError unless the value of ``name``, a full name of this key, is allowed."""
        # bool is an int in Python, not in a manifest.
        if isinstance(value, bool) or not isinstance(value, KINDS[self.kind]):
            raise BundleError(f"{path}: {name} must be {self.kind}, not {_kind(value)}")
        if self.choices and value not in self.choices:
            raise BundleError(f"{path}: {name} must be {' or '.join(self.choices)}")
        if isinstance(value, int | float) and not self._in_range(value):
            raise BundleError(f"{path}: {name} {shown(value)} is not {self._range()}")

    def _in_range(self, value: float) -> bool:
        meets_minimum = self.minimum is None or value >= self.minimum
        exceeds_bound = self.above is None or value > self.above
        return meets_minimum and exceeds_bound and (self.maximum is None or value <= self.maximum)

    def _range(self) -> str:
        start = f"from {self.minimum:g}" if self.above is None else f"above {self.above:g}"
        return (
            f"{self.kind} {start} to {self.maximum:,}" if self.maximum else f"{self.kind} {start}"
        )


def _size(key: str, description: str, minimum: int = 1, *, required: bool = True) -> ManifestKey:
    return ManifestKey(
        key, "a whole number", description, required, minimum=minimum, maximum=LARGEST
    )


KEYS = (
    ManifestKey("created_by", "text", "tinyclip-edge and its version."),
    ManifestKey("name", "text", "Name of the model."),
    ManifestKey("source", "an object", "`model` and `sha256` of the weights that were exported."),
    ManifestKey("model_hash", "text", "SHA-256 of the weights of both towers."),
    _size("image_size", "Pixels, square."),
    _size("embedding_dim", "Length of an embedding."),
    _size("context_length", "Largest number of tokens in a text, including start and end.", 2),
    ManifestKey(
        "logit_scale", "a number", "Factor on cosine similarities before softmax or sigmoid.",
        above=0, maximum=LARGEST,
    ),
    ManifestKey(
        "logit_bias", "a number",
        "Added to logits if each label is scored independently (SigLIP); null: softmax.",
        required=False, minimum=-LARGEST, maximum=LARGEST,
    ),
    ManifestKey("eot_token_id", "a whole number", "Token that ends a text."),
    ManifestKey("parameters", "an object", "Number of parameters of each part."),
    ManifestKey("parameters.image", "a whole number", "Of the image tower."),
    ManifestKey("parameters.text", "a whole number", "Of the text tower, without the token table."),
    ManifestKey("parameters.token_embedding", "a whole number", "Of the token table."),
    ManifestKey("default_precision", "text", "Precision to load by default."),
    ManifestKey("towers", "an object", "Paths of the ONNX files by tower and precision."),
    ManifestKey("towers.image", "an object", "Paths of the image tower by precision."),
    ManifestKey("towers.text", "an object", "Paths of the text tower by precision."),
    ManifestKey("towers.*.*", "text", "Path of one ONNX file, relative to the bundle."),
    ManifestKey("files", "an object", ("Every file of the bundle except this one, by relative "
                                       "path.")),
    ManifestKey("files.*", "an object", "One file."),
    ManifestKey("files.*.sha256", "text", "SHA-256 of its bytes, in hex."),
    ManifestKey("files.*.bytes", "a whole number", "Its size in bytes.", minimum=0),
    ManifestKey("recipe", "an object", "How each precision was made.", False),
    ManifestKey("recipe.*", "an object", "Settings of one precision.", False),
    ManifestKey("verification", "an object", ("Results of the comparison with PyTorch during the "
                                              "export."), False),
    ManifestKey("golden", "an object", "Inputs and embeddings that `check` replays.", False),
    ManifestKey("extras", "an object", ("Files in addition to the towers: classifier, towers "
                                        "of pictures and strings, layouts."), False),
    ManifestKey("target", "an object", "What platform the bundle was made for.", False),
    ManifestKey("target.name", "text", "Name of the export target.", False),
    ManifestKey("target.onnxruntime", "text", "Version that wrote .ort files; an older one may "
                "refuse them.", False),
    ManifestKey("target.operators", "text", "List of the operators and types that a reduced build "
                "of onnxruntime needs.", False),
    ManifestKey("tokenizer", "an object", "Settings of a tokenizer other than CLIP's.", False),
    ManifestKey(
        "matryoshka", "an object", "`dimensions`: lengths of prefixes of an embedding that the "
        "model was trained for, besides the full one.", False,
    ),
    ManifestKey("familiarity", "an object", "Data that distinguishes pictures like the "
                "training's from others; absent: unknown.", False),
    ManifestKey("familiarity.embedding", "an object", "Directions in which the training's image "
                "embeddings vary least: `mean` (base64 of float32), `directions` (base64 of int8), "
                "and `scales` of the directions, which include division by the deviation.", False),
    ManifestKey("familiarity.looks", "an object", "The same for border, flat area and detail of "
                "preprocessed pictures, with `quantiles` of the squared distance of the "
                "verification's pictures.", False),
    ManifestKey("familiarity.precisions", "an object", "By precision.", False),
    ManifestKey("familiarity.precisions.*", "an object", "`quantiles` of the squared distance of "
                "the embeddings.", False),
    ManifestKey("familiarity.precisions.*.threshold", "a number", "A picture is unfamiliar if the "
                "larger of its two p-values is below this, as for 1 % of the verification's "
                "pictures.", False, minimum=0, maximum=1),
    ManifestKey("confidence", "an object", "Calibration of probabilities on held-out pictures: "
                "`labels`, their prompt `templates`, number of `images`; absent: not "
                "calibrated.", False),
    ManifestKey("confidence.labelled_by", "text", "`folders`, or the model whose labels count as "
                "right.", False),
    ManifestKey("confidence.coverage", "a number", "Share of the right answers that a threshold "
                "accepts.", False, minimum=0, maximum=1),
    ManifestKey("confidence.precisions", "an object", "By precision.", False),
    ManifestKey("confidence.precisions.*", "an object", "`accuracy`, and the shares of right and "
                "wrong answers that the threshold accepts, `right_answered` and "
                "`wrong_answered`.", False),
    ManifestKey("confidence.precisions.*.temperature", "a number", "Logits are divided by it "
                "before softmax or sigmoid.", False, above=0, maximum=LARGEST),
    ManifestKey("confidence.precisions.*.threshold", "a number", "A picture is unknown if its "
                "best probability at the temperature is below this.", False, minimum=0, maximum=1),
    ManifestKey("confidence.precisions.*.ece_before", "a number", "Expected calibration error at "
                "temperature 1, over 15 bins.", False, minimum=0, maximum=1),
    ManifestKey("confidence.precisions.*.ece_after", "a number", "The same at the temperature: "
                "each half of the pictures at the one fitted to the other half.", False, minimum=0,
                maximum=1),
    ManifestKey("inputs", "an object", "Fixed shapes of the towers' inputs.", False),
    _size("inputs.batch", "Fixed batch size of the towers.", required=False),
    _size("inputs.pad_id", "Token that pads texts.", 0, required=False),
    ManifestKey(
        "inputs.ids", "text", "Type of token ids; absent: int64.", False,
        choices=("int64", "int32"),
    ),
    ManifestKey(
        "inputs.padding", "text", "Whether texts are padded to the context length.", False,
        choices=("none", "max_length"),
    ),
)  # fmt: skip


def check_keys(path: Path, content: Mapping[str, Any]) -> None:
    """Raise BundleError, with file and key, for the first value that KEYS does not allow."""
    for rule in KEYS:
        for name, value in _values(content, rule.key.split("."), ""):
            if value is None and not rule.required:
                continue
            if value is None:
                raise BundleError(f"{path}: key {name!r} is missing; export the bundle again")
            rule.check(path, name, value)


def _values(part: Any, keys: list[str], prefix: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Yield ``(name, value)`` of each match of a dotted key; None where it is absent."""
    if not keys:
        yield prefix, part
    elif isinstance(part, dict):
        for key in list(part) if keys[0] == "*" else [keys[0]]:
            yield from _values(part.get(key), keys[1:], f"{prefix}.{key}" if prefix else key)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    kinds = (name for name, types in KINDS.items() if isinstance(value, types))
    return next(kinds, "a list" if isinstance(value, list) else type(value).__name__)


def page_module() -> str:
    """Return the schema as the JavaScript module of the web page."""
    import json

    constants = {
        "FORMAT": FORMAT,
        "FORMAT_VERSION": FORMAT_VERSION,
        "CONFIG_FILES": CONFIG_FILES,
        "KEYS": [key.as_dict() for key in KEYS],
    }
    lines = ["// Written by docs/generate.py from tinyclip_edge/runtime/manifest_keys.py.\n"]
    for name, value in constants.items():
        lines.append(f"export const {name} = {json.dumps(value, indent=2)};\n")
    return "\n".join(lines)
