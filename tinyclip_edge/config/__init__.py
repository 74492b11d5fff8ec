"""What a run is told: schema, YAML files, ``key=value`` overrides."""

from tinyclip_edge.config.load import (
    config_names,
    configs_path,
    dump_config,
    flatten,
    load_config,
)
from tinyclip_edge.config.schema import (
    DataConfig,
    InheritConfig,
    LossConfig,
    OptimConfig,
    RunConfig,
    RunSection,
    StudentConfig,
    TeacherConfig,
)

__all__ = [
    "DataConfig",
    "InheritConfig",
    "LossConfig",
    "OptimConfig",
    "RunConfig",
    "RunSection",
    "StudentConfig",
    "TeacherConfig",
    "config_names",
    "configs_path",
    "dump_config",
    "flatten",
    "load_config",
]
