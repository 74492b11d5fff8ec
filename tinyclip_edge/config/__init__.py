"""Configuration of a run: schema, YAML files, ``key=value`` overrides."""

from tinyclip_edge.config.data import DataConfig
from tinyclip_edge.config.load import (
    config_names,
    configs_path,
    dump_config,
    flatten,
    load_config,
    make_config,
)
from tinyclip_edge.config.loss import LossConfig, register_installed_losses
from tinyclip_edge.config.optim import OptimConfig
from tinyclip_edge.config.running import RunSection
from tinyclip_edge.config.schema import (
    EnsembleMemberConfig,
    RunConfig,
    TeacherConfig,
)
from tinyclip_edge.config.section import Section, as_steps
from tinyclip_edge.config.shrink import InheritConfig, MasksConfig, StageConfig, StudentConfig
from tinyclip_edge.lazy import lazy_names

__all__ = [
    "DataConfig",
    "EnsembleMemberConfig",
    "InheritConfig",
    "LossConfig",
    "MasksConfig",
    "OptimConfig",
    "RunConfig",
    "RunSection",
    "Section",
    "StageConfig",
    "StudentConfig",
    "TeacherConfig",
    "as_steps",
    "config_names",
    "configs_path",
    "dump_config",
    "flatten",
    "load_config",
    "make_config",
]

__getattr__ = lazy_names(__name__, {})  # old names

register_installed_losses()  # they may import this package
