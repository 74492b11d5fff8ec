"""Create a student that fits its teacher, and initialise it with the teacher's weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from tinyclip_edge.config.shrink import TowerMode
from tinyclip_edge.errors import InheritanceError
from tinyclip_edge.inheritance import ClipShape, InheritanceReport, plan_uniform
from tinyclip_edge.inheritance.planned import PlannedInheritance
from tinyclip_edge.inheritance.tower_kind import BOTH, TowerName
from tinyclip_edge.models.agreement import (
    check_agreement,
    check_pools,
    check_text_encoders,
    check_trunks,
)
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.calibration import Calibrations
from tinyclip_edge.models.clip import LoadedClip
from tinyclip_edge.models.folder import read_config
from tinyclip_edge.models.head_widths import head_widths
from tinyclip_edge.models.importance import importance_plan
from tinyclip_edge.models.patches import resize_patches
from tinyclip_edge.models.positions import resize_positions, whole_state
from tinyclip_edge.models.pruned_units import UNITS
from tinyclip_edge.models.student_config import (
    complete_cfg,
    has_own_tokenizer,
    needs_end,
    pooling_at_end,
    teacher_cfg,
    with_whole_towers,
    without_tokenizer,
)
from tinyclip_edge.models.tokenization import (
    end_token_id,
    make_tokenizer,
    same_ids,
)
from tinyclip_edge.models.zoo import zoo_entry, zoo_shape

PlanName: TypeAlias = Literal["published", "evenly", "importance"]


def create_student(
    model: str | dict[str, Any],
    teacher: LoadedClip,
    *,
    own_tokens: bool = True,
    frozen: Collection[TowerName] = (),
) -> LoadedClip:
    """Return a student with random weights (the caller seeds torch).

    ``model`` is a zoo name or an open_clip model_cfg. Settings that it omits (image and patch
    size, vocabulary, context length, embedding, activation) are the teacher's, and so are
    preprocessing and tokenizer. With CLIP's vocabulary, or a tokenizer that it names, a student is
    an ordinary CLIP with that tokenizer; ``hf_model_name: None`` also makes it an ordinary CLIP if
    its teacher has a transformers text encoder. Without ``own_tokens`` it has the teacher's
    tokenizer, whatever it names. Scale and bias of a sigmoid are the teacher's. ``frozen`` towers
    have all of the teacher's settings, and ``model`` must leave them out. Raises ModelError.
    """
    name, overrides = _named_shape(model)
    if not own_tokens:
        overrides = without_tokenizer(overrides)
    original_cfg = teacher_cfg(teacher)
    config = complete_cfg(overrides, original_cfg, name)
    if frozen:
        config = with_whole_towers(config, overrides, original_cfg, frozen, name)
    student_text = overrides.get("text_cfg", {})
    own_tokenizer = has_own_tokenizer(student_text, original_cfg["text_cfg"])
    tokenizer_file = None if own_tokenizer else teacher.tokenizer_file
    text = config["text_cfg"]
    at_end = not own_tokens and "text" not in frozen and text.get("pool_type") == "eos"
    if at_end or needs_end(text, original_cfg["text_cfg"], own_tokenizer=own_tokenizer):
        tokenizer = make_tokenizer(config, None, name) if own_tokenizer else teacher.tokenizer
        text |= pooling_at_end(text, end_token_id(tokenizer), name)
    student = assemble(
        config, teacher.config["preprocess_cfg"], name=name, tokenizer_file=tokenizer_file
    )
    if student.logit_bias is not None and teacher.logit_bias is not None:
        _inherit_sigmoid(student, teacher)
    return student


@torch.no_grad()
def _inherit_sigmoid(student: LoadedClip, teacher: LoadedClip) -> None:
    """Give a student its teacher's logit scale and bias."""
    for name in ("logit_scale", "logit_bias"):
        value = teacher.model.get_parameter(name).detach().reshape(-1)[0]
        student.model.get_parameter(name).fill_(value.item())


def names_own_tokenizer(model: str | dict[str, Any], teacher: LoadedClip) -> bool:
    """Whether a zoo name or model_cfg selects a tokenizer other than its teacher's."""
    if isinstance(model, str) and zoo_entry(model).stages:  # masks leave the teacher's tokenizer
        return False
    text = _named_shape(model)[1].get("text_cfg", {})
    return has_own_tokenizer(text, teacher_cfg(teacher)["text_cfg"])


def _named_shape(model: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(model, str):
        return model, zoo_shape(model).model_cfg
    return "student", model


def zoo_config(name: str) -> dict[str, Any]:
    """Return the complete model_cfg of a zoo student.

    Starter students need the starter teacher's config: MissingExtraError without the kit.
    """
    entry = zoo_shape(name)
    if entry.kind == "published":
        return deepcopy(entry.model_cfg)
    from tinyclip_edge.starter import teacher_path

    return complete_cfg(entry.model_cfg, read_config(Path(teacher_path()))["model_cfg"], name)


def inherit_student(
    teacher: LoadedClip,
    student: LoadedClip,
    *,
    plan: PlanName = "published",
    calibration: Calibrations | None = None,
    device: torch.device | None = None,
    modes: Mapping[TowerName, TowerMode] | None = None,
) -> InheritanceReport:
    """Initialise the student with selected weights of the teacher, in place; see plan_student."""
    inheritance = plan_student(
        teacher, student, plan=plan, calibration=calibration, device=device, modes=modes
    )
    weights, report = inheritance.select(student.model.state_dict())
    student.model.load_state_dict(weights)
    return report


def plan_student(
    teacher: LoadedClip,
    student: LoadedClip,
    *,
    plan: PlanName = "published",
    calibration: Calibrations | None = None,
    device: torch.device | None = None,
    modes: Mapping[TowerName, TowerMode] | None = None,
) -> PlannedInheritance:
    """Plan which weights of the teacher the student inherits; neither is changed.

    ``importance`` needs ``calibration``: pixels ``[N, 3, H, W]`` as the teacher takes them, and ids
    ``[N, L]``, or several such pairs with weights; it is measured on ``device`` (None: where the
    teacher is). ``modes`` says which towers keep fresh weights or become the teacher's, whatever
    their kind; all others are inherited.

    Raises InheritanceError when activation or pooling differ, or when the student does not fit into
    the teacher. The positional embedding is interpolated to another image or patch size, and the
    patch embedding resized to another patch size.
    """
    if UNITS in teacher.config:
        raise InheritanceError(
            f"{teacher.name} is pruned and its layers differ in size, so a uniform student cannot "
            "inherit from it; inherit from the model it was pruned from"
        )
    modes = modes or {}
    frozen, fresh = (
        [tower for tower in BOTH if modes.get(tower) == mode] for mode in ("frozen", "fresh")
    )
    towers = [tower for tower in BOTH if tower not in (*frozen, *fresh)]
    check_agreement(teacher.config["model_cfg"], student.config["model_cfg"], towers)
    student_state = student.model.state_dict()
    if "image" in towers:
        check_pools(teacher, student)
        teacher_state, notes = resize_positions(teacher.model, student.model)
        teacher_state, resized = resize_patches(teacher_state, student_state)
        notes = (*notes, *resized)
    else:
        teacher_state, notes = whole_state(teacher.model), ()
    shapes = (
        ClipShape.of(teacher_state, head_widths(teacher), towers=towers),
        ClipShape.of(student_state, head_widths(student), towers=towers),
    )
    if "image" in towers and shapes[0].image.kind == shapes[1].image.kind:
        check_trunks(teacher, student)  # the plan refuses towers of different kinds
    if "text" in towers:
        check_text_encoders(teacher, student)
    if "text" in towers and not same_ids(teacher.tokenizer, student.tokenizer):
        # Rows of another tokenizer's ids are meaningless: the plan has no tokens.
        shapes = (shapes[0], replace(shapes[1], vocabulary=0))
        notes = (*notes, "token embedding not inherited: the student has another tokenizer")
    notes = (*notes, *(f"the {tower} tower is the teacher's, and not trained" for tower in frozen))
    if not towers or plan != "importance":
        layers = "evenly" if plan == "importance" else plan
        unit_plan = plan_uniform(*shapes, layers=layers, towers=towers)
    elif calibration is None:
        raise InheritanceError(
            "plan importance needs calibration pairs: give calibration=(pixels, ids), or choose "
            "the plan evenly"
        )
    else:
        unit_plan = importance_plan(teacher, shapes, calibration, device, towers=towers)
    return PlannedInheritance(teacher_state, unit_plan, shapes[0], frozen, notes)
