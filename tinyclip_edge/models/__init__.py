"""Teachers and students: the only package that imports open_clip.

Names load on first use, so that the zoo can be listed without importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyclip_edge.lazy import lazy_names

if TYPE_CHECKING:
    from tinyclip_edge.models.clip import (
        LoadedClip,
        ParameterCount,
        count_parameters,
        weights_hash,
    )
    from tinyclip_edge.models.convert import Conversion, convert_checkpoint
    from tinyclip_edge.models.embedder import TorchEmbedder
    from tinyclip_edge.models.folder import save_local_dir
    from tinyclip_edge.models.huggingface import save_huggingface
    from tinyclip_edge.models.listing import teacher_rows, zoo_rows, zoo_table
    from tinyclip_edge.models.load import load_clip
    from tinyclip_edge.models.names import check_checkpoint, check_config, check_model
    from tinyclip_edge.models.runs import newest_models, newest_run, student_folder
    from tinyclip_edge.models.student import create_student, inherit_student
    from tinyclip_edge.models.zoo import ZOO, ZooEntry

_HOME = {
    "LoadedClip": "clip",
    "ParameterCount": "clip",
    "count_parameters": "clip",
    "weights_hash": "clip",
    "Conversion": "convert",
    "check_checkpoint": "names",
    "check_config": "names",
    "check_model": "names",
    "convert_checkpoint": "convert",
    "TorchEmbedder": "embedder",
    "save_local_dir": "folder",
    "save_huggingface": "huggingface",
    "load_clip": "load",
    "newest_models": "runs",
    "newest_run": "runs",
    "student_folder": "runs",
    "create_student": "student",
    "inherit_student": "student",
    "teacher_rows": "listing",
    "zoo_rows": "listing",
    "zoo_table": "listing",
    "ZOO": "zoo",
    "ZooEntry": "zoo",
}

__all__ = [
    "ZOO",
    "Conversion",
    "LoadedClip",
    "ParameterCount",
    "TorchEmbedder",
    "ZooEntry",
    "check_checkpoint",
    "check_config",
    "check_model",
    "convert_checkpoint",
    "count_parameters",
    "create_student",
    "inherit_student",
    "load_clip",
    "newest_models",
    "newest_run",
    "save_huggingface",
    "save_local_dir",
    "student_folder",
    "teacher_rows",
    "weights_hash",
    "zoo_rows",
    "zoo_table",
]


__getattr__ = lazy_names(__name__, _HOME)
