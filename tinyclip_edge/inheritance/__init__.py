"""Weight inheritance as pure functions: plans of what a student inherits, slicing, masks."""

from __future__ import annotations

from tinyclip_edge.inheritance.plan import choose_layers, plan_uniform
from tinyclip_edge.inheritance.plan_types import InheritancePlan, LayerChoice, ResNetPlan, TowerPlan
from tinyclip_edge.inheritance.report import InheritanceReport, TowerReport
from tinyclip_edge.inheritance.shape import ClipShape, HeadWidths, TowerShape
from tinyclip_edge.inheritance.taken import InheritedUnits
from tinyclip_edge.inheritance.uniform import inherit_uniform
from tinyclip_edge.lazy import lazy_names

__all__ = [
    "ClipShape",
    "HeadWidths",
    "InheritancePlan",
    "InheritanceReport",
    "InheritedUnits",
    "LayerChoice",
    "ResNetPlan",
    "TowerPlan",
    "TowerReport",
    "TowerShape",
    "choose_layers",
    "inherit_uniform",
    "plan_uniform",
]

__getattr__ = lazy_names(__name__, {})  # old names
