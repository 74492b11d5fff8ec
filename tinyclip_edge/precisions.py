"""The table of precisions, read by export, verification, command line and documentation.

To add one, :func:`register` a :class:`Precision`. The table has no code: a recipe is named by its
kind, and ``tinyclip_export.quantization.registry`` has one factory for each kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tinyclip_edge.errors import ConfigError, did_you_mean

# With 8 bits, a ResNet stays above 0.999 and a FastViT above 0.995. At 0.96 a FastViT is damaged,
# even if recall on few verification pairs hides it. Below the first value, int8 gets a float image
# tower.
CONVOLUTION_COSINE, STATIC_CONVOLUTION_COSINE = 0.995, 0.98
REPLAY_COSINE = 0.999  # with integer kernels, one bit can move an activation by a whole step


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """One form of a tower's weights and activations."""

    name: str
    description: str  # for --help and README, a few words
    suffix: str  # after a file's stem; transformers.js's, if it has the precision
    recipe: str = ""  # kind of recipe; empty for fp32, which the others are made from
    options: Mapping[str, Any] = field(default_factory=dict)  # of the recipe, beyond the preset's
    aliases: tuple[str, ...] = ()
    calibrated: bool = True  # layers are ranked, or ranges measured, on calibration pairs
    exact: bool = False  # must return the same hits as PyTorch
    least_cosine: float = 0.9  # to PyTorch, 1st percentile; far below a usable file's
    convolution_cosine: float | None = None  # for a convolutional image tower; None: no other
    replay_cosine: float = REPLAY_COSINE  # to the golden vectors on another machine
    fills_int8: bool = False  # its sums may overflow 16 bits, unless a recipe says otherwise


PRECISIONS: dict[str, Precision] = {}


def register(precision: Precision) -> Precision:
    """Add a precision to the table. Raises ConfigError when its name, alias or suffix is taken."""
    for registered in PRECISIONS.values():
        for name in (precision.name, *precision.aliases):
            if name in (registered.name, *registered.aliases):
                raise ConfigError(f"precision '{name}' is already in the table")
        if precision.suffix == registered.suffix:
            raise ConfigError(f"file suffix '{precision.suffix}' is that of {registered.name}")
    PRECISIONS[precision.name] = precision
    return precision


def check_precisions(names: Iterable[str]) -> tuple[str, ...]:
    """Return the precisions without repeats; raise ConfigError for an unknown one or none."""
    canonical_name = {
        alias: precision.name for precision in PRECISIONS.values() for alias in precision.aliases
    }
    precisions = tuple(dict.fromkeys(canonical_name.get(name, name) for name in names))
    if not precisions:
        raise ConfigError(f"no precision to export; known: {', '.join(PRECISIONS)}")
    for name in precisions:
        if name not in PRECISIONS:
            raise ConfigError(
                f"precision '{name}' is unknown{did_you_mean(name, [*PRECISIONS, *canonical_name])}"
            )
    return precisions


def replay_cosine(name: str) -> float:
    """Return the cosine that golden vectors must reach in a precision, even an unknown one."""
    precision = PRECISIONS.get(name)
    return REPLAY_COSINE if precision is None else precision.replay_cosine


def markdown_table() -> str:
    """Return the table as the reference pages show it."""
    head = ["| precision | file | what it is |", "| --- | --- | --- |"]
    rows = [
        f"| `{p.name}` | `vision_model{p.suffix}.onnx` | {p.description} |"
        for p in PRECISIONS.values()
    ]
    return "\n".join([*head, *rows])


register(
    Precision(
        name="fp32",
        description="the model as PyTorch computes it",
        suffix="",
        calibrated=False,
        exact=True,
        least_cosine=0.9999,  # the minimum over all pairs, not the 1st percentile
        # Float sums in another order differ in the last bits.
        replay_cosine=0.9999,
    )
)
register(
    Precision(
        name="fp16",
        description="weights and activations in float16, for GPUs; CPUs compute it in float32",
        suffix="_fp16",
        recipe="float16",
        calibrated=False,
        least_cosine=0.999,
        replay_cosine=0.9999,
    )
)
register(
    Precision(
        name="int8",
        description=(
            "dynamic int8, with activation ranges computed at run time; static for a ResNet"
        ),
        suffix="_quantized",  # transformers.js' q8
        recipe="dynamic",
        aliases=("q8",),
        fills_int8=True,
        convolution_cosine=CONVOLUTION_COSINE,
    )
)
register(
    Precision(
        name="uint8",
        description="dynamic with uint8 weights: correct on every CPU, slower on those with VNNI",
        suffix="_uint8",
        recipe="dynamic uint8",
        convolution_cosine=CONVOLUTION_COSINE,
    )
)
register(
    Precision(
        name="static",
        description="int8 with activation ranges measured beforehand",
        suffix="_static",
        recipe="static",
        fills_int8=True,
        convolution_cosine=STATIC_CONVOLUTION_COSINE,
    )
)
register(
    Precision(
        name="a16w8",
        description="16-bit activations and 8-bit weights in every operator, for NPUs",
        suffix="_a16w8",
        recipe="wide",
    )
)
register(
    Precision(
        name="w8",
        description="8-bit weights, float products",
        suffix="_w8",
        recipe="weight only",
        options={"weights": "8 bit"},
    )
)
register(
    Precision(
        name="q4",
        description="4-bit weights, float products",
        suffix="_q4",
        recipe="weight only",
        options={"weights": "4 bit"},
        aliases=("int4",),
    )
)
register(
    Precision(
        name="q4f16",
        description="4-bit weights, everything else in float16",
        suffix="_q4f16",
        recipe="weight only",
        options={"weights": "4 bit", "half": True},
    )
)
register(
    Precision(
        name="bnb4",
        description="weights in the 4-bit float of bitsandbytes (nf4)",
        suffix="_bnb4",
        recipe="weight only",
        options={"weights": "nf4"},
    )
)
