"""Generate the registry that ``names`` and ``listing`` read without torch.

After a change of the zoo or a new release of open_clip:
``python -m tinyclip_edge.models.registry``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyclip_edge.models.cost import model_cost
from tinyclip_edge.models.folder import read_config
from tinyclip_edge.models.json_file import write_json
from tinyclip_edge.models.library import open_clip, quiet
from tinyclip_edge.models.names import REGISTRY, STARTER_TEACHER
from tinyclip_edge.models.student import zoo_config
from tinyclip_edge.models.zoo import TEACHERS, ZOO, RoundedSize, ZooEntry


def compute_registry() -> dict[str, Any]:
    """Return the content of the file: zoo rows, and the pretrained tags by architecture."""
    with quiet():
        names = open_clip.list_models()
        tags = {name: open_clip.list_pretrained_tags_by_model(name) for name in names}
    return {
        "open_clip": open_clip.__version__,
        "students": student_rows(),
        "teachers": teacher_rows(),
        "tags": {name: model_tags for name, model_tags in tags.items() if model_tags},
    }


def student_rows() -> list[dict[str, Any]]:
    """Compute the rows of ``zoo_rows``.

    Raises MissingExtraError without the starter kit.
    """
    return [_student_row(entry) for entry in ZOO.values()]


def teacher_rows() -> list[dict[str, Any]]:
    """Compute the rows of ``listing.teacher_rows``; raises as ``student_rows`` does."""
    return [
        {
            "name": teacher.name,
            **_sizes(_teacher_config(teacher.name), teacher.name),
            "imagenet_top1": teacher.imagenet_top1,
            "pretrained_on": teacher.pretrained_on,
        }
        for teacher in TEACHERS.values()
    ]


def _student_row(entry: ZooEntry) -> dict[str, Any]:
    sizes = (
        _sizes(zoo_config(entry.name), entry.name)
        if entry.size is None
        else _rounded_sizes(entry.size)
    )
    return {
        "name": entry.name,
        "kind": entry.kind,
        "teacher": entry.teacher,
        "stages": list(entry.stages),
        **sizes,
        "imagenet_top1": entry.imagenet_top1,
        "pretrained_on": entry.pretrained_on,
    }


def _sizes(model_cfg: dict[str, Any], name: str) -> dict[str, Any]:
    cost = model_cost(model_cfg, name)
    count = cost.parameters
    return {
        "image_parameters": count.image,
        "text_parameters": count.text,
        "token_parameters": count.token_embedding,
        "parameters": count.encoders,
        "parameters_with_tokens": count.encoders + count.token_embedding,
        "rounded": False,
        "image_macs": cost.image_macs,
        "text_macs": cost.text_macs,
        "gmacs": (cost.image_macs + cost.text_macs) / 1e9,
    }


def _rounded_sizes(size: RoundedSize) -> dict[str, Any]:
    image, text = size.image_millions * 1_000_000, size.text_millions * 1_000_000
    return {
        "image_parameters": image,
        "text_parameters": text,
        "token_parameters": None,
        "parameters": image + text,
        "parameters_with_tokens": None,
        "rounded": True,
        "image_macs": None,
        "text_macs": None,
        "gmacs": size.gmacs,
    }


def _teacher_config(name: str) -> dict[str, Any]:
    if name == STARTER_TEACHER:
        from tinyclip_edge.starter import teacher_path

        config: dict[str, Any] = read_config(Path(teacher_path()))["model_cfg"]
    else:
        config = open_clip.get_model_config(name.split("/", 1)[0])
    return config


if __name__ == "__main__":
    write_json(REGISTRY, compute_registry())
