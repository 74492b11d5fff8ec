"""Convert a checkpoint file of any known form to a CLIP."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.architecture import HEAD_WIDTHS, Architecture, infer
from tinyclip_edge.models.checkpoint_file import read_checkpoint
from tinyclip_edge.models.checkpoint_forms import PublishedCheckpoint, recognise
from tinyclip_edge.models.clip import LoadedClip, count_parameters
from tinyclip_edge.models.describe import describe
from tinyclip_edge.models.given_config import UserConfig, open_clip_config, read_user_config
from tinyclip_edge.models.load import load_clip
from tinyclip_edge.models.names import check_checkpoint
from tinyclip_edge.models.pruned import assemble_weights
from tinyclip_edge.models.pruned_forms import apply_gates, dense_state
from tinyclip_edge.models.pruned_units import UNITS
from tinyclip_edge.models.tokenization import name_own_tokenizer, tokenizer_beside
from tinyclip_edge.notebook import NotebookReport

if TYPE_CHECKING:
    from rich.table import Table

_HUGGINGFACE = ("vision_model.", "text_model.")
_ACTIVATIONS = ("GELU", "QuickGELU")
# Settings that --config supplies for a pruned file; sizes are read from its weights.
_SETTINGS = {
    "vision_cfg": ("act_kwargs", "norm_kwargs"),
    "text_cfg": (
        *("act_kwargs", "norm_kwargs", "pool_type", "eos_id"),
        *("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"),
    ),
}
_UNKNOWN = (
    "weights do not show the activation: GELU is assumed, as in the published TinyCLIP configs; "
    "give --quick-gelu for weights derived from OpenAI's"
)


@dataclass(frozen=True, slots=True)
class Conversion(NotebookReport):
    """A CLIP in memory, and how its source was recognised."""

    clip: LoadedClip
    source: str
    forms: tuple[str, ...]  # letters of checkpoint_forms.FORMS; none for a model folder
    found: str
    architecture: str
    activation: str
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        """Return the conversion's facts as a table."""
        from tinyclip_edge.plain_table import PlainTable

        table = PlainTable(show_header=False)
        for name in ("source", "found", "architecture", "activation"):
            table.add_row(name, str(getattr(self, name)))
        for note in self.notes:
            table.add_row("note", note)
        return table

    def as_dict(self) -> dict[str, Any]:
        """Return the conversion's facts as plain JSON values."""
        count = count_parameters(self.clip.model)
        return {
            "source": self.source,
            "forms": list(self.forms),
            "found": self.found,
            "architecture": self.architecture,
            "activation": self.activation,
            "parameters": {
                "image": count.image,
                "text": count.text,
                "token_embedding": count.token_embedding,
                "total": count.total,
            },
            "model_cfg": self.clip.config["model_cfg"],
            "notes": list(self.notes),
        }


def convert_checkpoint(
    source: str, *, config: str | None = None, quick_gelu: bool | None = None
) -> Conversion:
    """Open a checkpoint file of any known form, or a MODEL that ``load_clip`` opens.

    ``config`` names the architecture of a file, by default inferred from its shapes;
    ``quick_gelu`` sets the activation. Nothing is written. Raises ModelError.
    """
    check_checkpoint(source)
    path = Path(source)
    if path.is_file():
        return _convert_file(path, config, quick_gelu)
    clip = load_clip(source)
    if config is not None or quick_gelu is not None:
        raise ModelError(
            f"{source} has its own config; --config, --gelu and --quick-gelu are for bare files"
        )
    quick = bool(clip.config["model_cfg"].get("quick_gelu"))
    return Conversion(
        clip,
        source,
        (),
        f"a model with its own config: {clip.name}",
        describe(clip),
        f"{_ACTIVATIONS[quick]} (from its config)",
    )


def _convert_file(path: Path, config: str | None, quick_gelu: bool | None) -> Conversion:
    user_config = None if config is None else read_user_config(config)
    checkpoint = recognise(_read(path), str(path))
    pruned = "I" in checkpoint.forms
    shape = None
    # A recipe of the zoo has no shape: it supplies the activation only.
    if user_config is None or pruned or not user_config.model_cfg:
        widths = HEAD_WIDTHS if user_config is None else user_config.head_widths
        shape = infer(checkpoint.state, str(path), pruned=pruned, head_widths=widths)
    named = _named_inside(checkpoint)
    quick, activation = _activation(checkpoint, user_config, named, config, quick_gelu)
    facts = user_config or named
    preprocess_cfg = None if facts is None else facts.preprocess_cfg
    clip = _assemble(path, checkpoint.state, shape, user_config, preprocess_cfg, quick_gelu=quick)
    notes = [*([] if activation else [_UNKNOWN]), *(() if facts is None else facts.notes)]
    if checkpoint.gates:
        clip, sparsity = apply_gates(clip, checkpoint.gates, str(path))
        notes.append(f"masks applied: {sparsity:.1%} of the prunable parameters were removed")
    if config is not None and pruned:
        notes.append(f"sizes come from the pruned weights, the width of a head from {config}")
    return Conversion(
        clip,
        str(path),
        checkpoint.forms,
        checkpoint.description,
        describe(clip),
        f"{_ACTIVATIONS[quick]} ({activation or 'by default'})",
        tuple(notes),
    )


def _read(path: Path) -> object:
    content = read_checkpoint(path)
    if isinstance(content, dict) and any(str(key).startswith(_HUGGINGFACE) for key in content):
        raise ModelError(
            f"{path} holds weights of a Hugging Face CLIPModel: give its folder, {path.parent}, "
            "with the config.json"
        )
    return content


def _assemble(
    path: Path,
    state: dict[str, Tensor],
    shape: Architecture | None,
    user_config: UserConfig | None,
    preprocess_cfg: dict[str, Any] | None,
    *,
    quick_gelu: bool,
) -> LoadedClip:
    """Return the CLIP of these weights, with the sizes of ``shape`` if there is one."""
    tokenizer_file = user_config.tokenizer_file if user_config is not None else None
    tokenizer_file = tokenizer_file or tokenizer_beside(path.parent)
    config: dict[str, Any] = {"preprocess_cfg": preprocess_cfg}
    if shape is None:
        assert user_config is not None
        config["model_cfg"] = deepcopy(user_config.model_cfg)
    else:
        config["model_cfg"] = shape.model_cfg
        for tower, keys in _SETTINGS.items():
            tower_cfg = {} if user_config is None else user_config.model_cfg.get(tower, {})
            shape.model_cfg[tower].update({key: tower_cfg[key] for key in keys if key in tower_cfg})
        name_own_tokenizer(shape.model_cfg, tokenizer_file)
        if not shape.plain:
            config[UNITS] = shape.units.table()
            state = dense_state(state, shape.units)
    if quick_gelu or "quick_gelu" in config["model_cfg"]:
        config["model_cfg"]["quick_gelu"] = quick_gelu
    return assemble_weights(
        config,
        state,
        name=path.stem,
        source=str(path),
        weights_file=path,
        tokenizer_file=tokenizer_file,
    )


def _activation(
    checkpoint: PublishedCheckpoint,
    user_config: UserConfig | None,
    named: UserConfig | None,
    config: str | None,
    option: bool | None,
) -> tuple[bool, str]:
    """Return whether it is QuickGELU and where that is stated; GELU and "" if nowhere."""
    if option is not None:
        return option, "as requested"
    if user_config is not None:
        return bool(user_config.model_cfg.get("quick_gelu")), f"from {config}"
    if "J" in checkpoint.forms:
        return True, "as in Long-CLIP, which is OpenAI's CLIP with further positions"
    forced = checkpoint.arguments.get("force_quick_gelu")
    if forced is True:
        return True, "from the training arguments in the file"
    name = checkpoint.arguments.get("model")
    if isinstance(name, str) and isinstance(forced, bool):
        quick = bool(named and named.model_cfg.get("quick_gelu"))
        return quick, f"from the training arguments in the file: {name}"
    return False, ""


def _named_inside(checkpoint: PublishedCheckpoint) -> UserConfig | None:
    """Return the config of the open_clip name among a file's training arguments."""
    name = checkpoint.arguments.get("model")
    return open_clip_config(name) if isinstance(name, str) else None
