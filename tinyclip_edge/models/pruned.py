"""Prune a CLIP by its masks into a small dense one, an ordinary CLIP if its shape allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.inheritance.dense import DenseBlock
from tinyclip_edge.inheritance.equal import equal_masks
from tinyclip_edge.inheritance.fastvit_kind import FASTVIT
from tinyclip_edge.inheritance.gates import ClipGates, ClipMasks
from tinyclip_edge.inheritance.maskable import check_maskable
from tinyclip_edge.inheritance.masked_fastvit import is_fastvit
from tinyclip_edge.inheritance.masked_pool import with_pool_apart, with_pool_as
from tinyclip_edge.inheritance.masked_resnet import is_resnet
from tinyclip_edge.inheritance.open_clip_kinds import POOLED_VIT, RESNET
from tinyclip_edge.inheritance.prune import PrunePlan
from tinyclip_edge.inheritance.text_part import text_part
from tinyclip_edge.inheritance.units import ClipUnits, TowerUnits
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.build import build_model, mlp_ratio
from tinyclip_edge.models.clip import LoadedClip, count_parameters
from tinyclip_edge.models.coca import without_decoder
from tinyclip_edge.models.head_widths import head_widths
from tinyclip_edge.models.meta_device import on_meta_device
from tinyclip_edge.models.positions import whole_state
from tinyclip_edge.models.prefixes import read_prefixes
from tinyclip_edge.models.pruned_fastvit import pruned_fastvit
from tinyclip_edge.models.pruned_resnet import pruned_resnet
from tinyclip_edge.models.pruned_units import UNITS, read_units
from tinyclip_edge.models.sized_text import has_own_text
from tinyclip_edge.models.student_config import teacher_cfg
from tinyclip_edge.models.weights import check_fit, fill

MAX_CONSTANTS = 1 << 26  # values besides the weights: causal masks, tables of positions
# (the file's tensors, expected tensors, name of the file) -> tensors under open_clip's names.
Rename: TypeAlias = Callable[[dict[str, Tensor], Mapping[str, Tensor], str], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class PruneResult:
    """A pruned CLIP with the record of its pruning."""

    clip: LoadedClip  # dense, float32, eval mode
    plan: PrunePlan  # retained units and folded masks; slices optimizer moments too
    parameters_before: int  # of the whole model
    parameters_after: int
    sparsity: float  # 1 - prunable parameters left / those that the gates refer to


def prune_clip(
    clip: LoadedClip,
    gates: ClipGates | ClipMasks,
    *,
    uniform_shapes: bool = False,
    nearest: bool = False,
) -> PruneResult:
    """Remove the units that masks switch off, and fold the other masks into the weights.

    ``uniform_shapes`` gives every layer of a tower the same number of heads and neurons, so that
    the result is an ordinary open_clip CLIP of the gates' size, or of the ``nearest`` possible one.
    Raises InheritanceError.
    """
    units = clip_units(clip)
    if isinstance(gates, ClipGates):
        if gates.units != units:
            raise InheritanceError(f"{clip.name}: the gates do not fit its shape")
        masks = equal_masks(gates, nearest=nearest) if uniform_shapes else gates.binarised()
    else:
        masks = gates
    plan = PrunePlan.of(units, masks)
    if uniform_shapes and not _plain(plan.after):
        raise InheritanceError("uniform_shapes needs gates, or masks whose layers are equal")
    state = plan.cut(with_pool_apart(whole_state(clip.model)))
    pruned = assemble_units(clip, plan.after)
    pruned.model.load_state_dict(with_pool_as(state, pruned.model.state_dict()))
    pruned.model.to(next(clip.model.parameters()).device)
    prunable = gates.prunable if isinstance(gates, ClipGates) else units.prunable
    return PruneResult(
        clip=pruned,
        plan=plan,
        parameters_before=count_parameters(clip.model).total,
        parameters_after=count_parameters(pruned.model).total,
        sparsity=1 - plan.after.prunable / prunable,
    )


def clip_units(clip: LoadedClip) -> ClipUnits:
    """Count the maskable units of a CLIP, whether or not it was pruned before.

    Raises InheritanceError for a tower that masks do not support.
    """
    check_maskable(clip.model)
    if UNITS in clip.config:
        return read_units(clip.config[UNITS], clip.name)
    return ClipUnits.of(clip.model.state_dict(), head_widths(clip))


def assemble_units(origin: LoadedClip, units: ClipUnits) -> LoadedClip:
    """Return a CLIP of the given units with random weights; all else is as in ``origin``.

    It is an ordinary open_clip CLIP if ``units`` allow, otherwise ``config`` describes its layers.
    """
    config = {k: v for k, v in origin.config.items() if k != UNITS}
    if units.text.kind:  # its sizes differ from those on the hub
        config["model_cfg"] = teacher_cfg(origin)
    if _plain(units):
        config["model_cfg"] = _plain_cfg(config["model_cfg"], units)
    else:
        config[UNITS] = units.table()
    return assemble_config(config, name=origin.name, tokenizer_file=origin.tokenizer_file)


def assemble_config(
    config: dict[str, Any],
    *,
    name: str,
    source: str | None = None,
    tokenizer_file: Path | None = None,
) -> LoadedClip:
    """Return the CLIP of a folder's config, ordinary or pruned, with random weights.

    The caller's random state is unchanged. Raises ModelError.
    """
    source, network = source or name, None
    with torch.random.fork_rng(devices=[]):
        if UNITS in config:
            units = read_units(config[UNITS], source)
            network = build_units(config["model_cfg"], units, source)
        clip = assemble(
            config["model_cfg"],
            config.get("preprocess_cfg"),
            name=name,
            source=source,
            network=network,
            tokenizer_file=tokenizer_file,
        )
    units_table = {UNITS: deepcopy(config[UNITS])} if UNITS in config else {}
    return replace(clip, config={**clip.config, **units_table, **read_prefixes(config, source)})


def expected_weights(config: dict[str, Any], source: str) -> dict[str, Tensor]:
    """Return the tensors that a folder's config describes, on the meta device: shapes only.

    Raises ModelError, also for a network that needs much memory besides its weights.
    """
    with on_meta_device():
        if UNITS in config:
            units = read_units(config[UNITS], source)
            network = build_units(config["model_cfg"], units, source)
        else:
            network = build_model(config["model_cfg"], source)
    expected: dict[str, Tensor] = network.state_dict()
    constants = sum(t.numel() for key, t in network.named_buffers() if key not in expected)
    if constants > MAX_CONSTANTS:
        raise ModelError(
            f"{source}: masks and tables of this model_cfg have {constants:,} values, "
            f"at most {MAX_CONSTANTS:,} are built"
        )
    return expected


def assemble_weights(
    config: dict[str, Any],
    weights: dict[str, Tensor],
    *,
    name: str,
    source: str,
    weights_file: Path,
    tokenizer_file: Path | None = None,
    rename: Rename | None = None,
) -> LoadedClip:
    """Return the CLIP of a folder's config with the weights of a file.

    Shapes are compared before the network is built, so that a config cannot claim more memory than
    the file's size. ``rename`` turns the file's tensors into open_clip's. Raises ModelError.
    """
    label = str(weights_file)
    expected = expected_weights(config, source)
    state = without_decoder(weights, config["model_cfg"], label)
    state = state if rename is None else rename(state, expected, label)
    check_fit(state, expected, label)
    clip = assemble_config(config, name=name, source=source, tokenizer_file=tokenizer_file)
    fill(clip.model, state, label)
    return replace(clip, weights_file=weights_file)


def build_units(model_cfg: dict[str, Any], units: ClipUnits, source: str) -> nn.Module:
    """Return an open_clip CLIP with dense blocks of the given units. Raises ModelError."""
    model: Any = build_model(_single_layers(model_cfg, units, source), source)
    transformers = []
    if units.text.kind:
        model.text = _text_tower(model_cfg, units, source)
    else:
        text = text_part(model)
        if not hasattr(text, "transformer") or not hasattr(text, "token_embedding"):
            raise ModelError(f"{source}: '{UNITS}' do not support this kind of text tower")
        transformers.append((text.transformer, units.text))
    if not units.image.of_open_clip:
        model.visual = _image_tower(model_cfg, units, source)
    else:
        transformers.append((model.visual.transformer, units.image))
    for transformer, tower in transformers:
        pattern = transformer.resblocks[0]
        transformer.layers = len(tower.heads)
        transformer.resblocks = nn.ModuleList(
            DenseBlock(pattern, heads=a, neurons=i, head_width=tower.head_width)
            for a, i in zip(tower.heads, tower.neurons, strict=True)
        )
    network: nn.Module = model.eval()
    return network


def _single_layers(model_cfg: dict[str, Any], units: ClipUnits, source: str) -> dict[str, Any]:
    """Return a model_cfg with one layer per tower, the pattern for norms and activation."""
    cfg, single_unit = deepcopy(model_cfg), {"layers": 1, "mlp_ratio": 1.0}
    of_timm = bool(cfg["vision_cfg"].get("timm_model_name"))
    resnet = isinstance(cfg["vision_cfg"].get("layers"), (list, tuple)) and not of_timm
    pooled = bool(cfg["vision_cfg"].get("attentional_pool")) and not (of_timm or resnet)
    kinds = of_timm, resnet, pooled
    if kinds != _kinds(units.image):
        raise ModelError(f"{source}: {UNITS}.image and vision_cfg are different kinds of towers")
    if has_own_text(cfg) != bool(units.text.kind):
        raise ModelError(f"{source}: {UNITS}.text and text_cfg are different kinds of towers")
    if not units.image.of_open_clip:
        cfg["vision_cfg"] = {"image_size": 1, "patch_size": 1, **single_unit, "width": 64}
    else:
        width = units.image.width
        cfg["vision_cfg"].update(single_unit, width=width, head_width=width)
    if units.text.kind:
        cfg["text_cfg"], cfg["custom_text"] = {**single_unit, "width": 64, "heads": 1}, True
    else:
        cfg["text_cfg"].update(single_unit, width=units.text.width, heads=1)
    return cfg


def _text_tower(model_cfg: dict[str, Any], units: ClipUnits, source: str) -> nn.Module:
    from tinyclip_edge.models.pruned_text import pruned_text

    with on_meta_device():
        whole: Any = build_model(model_cfg, source)
    try:
        return pruned_text(whole.text, units.text)
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error


def _kinds(image: TowerUnits) -> tuple[bool, bool, bool]:
    """Return whether a tower is timm's, a ResNet, or a ViT with open_clip's attention pool."""
    resnet = image.kind == RESNET.name
    of_timm = not image.of_open_clip and not resnet
    return of_timm, resnet, image.kind == POOLED_VIT.name


def _image_tower(model_cfg: dict[str, Any], units: ClipUnits, source: str) -> nn.Module:
    from tinyclip_edge.models.pruned_timm import pruned_tower

    with on_meta_device():
        whole: Any = build_model(model_cfg, source)
    label = f"{source}: {UNITS}.image"
    if is_resnet(whole.visual):  # so are its units: _single_layers compared the kinds
        return pruned_resnet(whole.visual, units.image, label)
    trunk = whole.visual.trunk
    fits = is_fastvit(trunk) == (units.image.kind == FASTVIT.name)
    if not fits or not (units.image.stages or hasattr(trunk, "blocks")):
        raise ModelError(f"{label} is of another kind than vision_cfg")
    if units.image.stages:
        return pruned_fastvit(whole.visual, units.image, label)
    if len(trunk.blocks) != len(units.image.heads):
        raise ModelError(
            f"{label} has {len(units.image.heads):,} layers, vision_cfg {len(trunk.blocks)}"
        )
    return pruned_tower(whole.visual, model_cfg["vision_cfg"], units.image)


def _plain(units: ClipUnits) -> bool:
    return units.image.plain and units.text.plain


def _plain_cfg(model_cfg: dict[str, Any], units: ClipUnits) -> dict[str, Any]:
    cfg = deepcopy(model_cfg)
    for key, tower in (("vision_cfg", units.image), ("text_cfg", units.text)):
        cfg[key]["width"], cfg[key]["layers"] = tower.width, len(tower.heads)
        cfg[key]["mlp_ratio"] = mlp_ratio(tower.width, tower.neurons[0])
    cfg["vision_cfg"]["head_width"] = units.image.head_width
    cfg["text_cfg"]["heads"] = units.text.heads[0]
    return cfg
