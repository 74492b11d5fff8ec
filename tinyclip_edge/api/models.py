"""``evaluate``, ``compare`` and ``convert``: measure and rank models, read checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tinyclip_edge.errors import ConfigError, did_you_mean
from tinyclip_edge.paths import require_empty

if TYPE_CHECKING:
    from tinyclip_edge.evaluation import EvalReport
    from tinyclip_edge.evaluation.resampling import Resampling
    from tinyclip_edge.evaluation.standings import Standings
    from tinyclip_edge.models import Conversion

LAYOUTS = ("open_clip", "huggingface")


def evaluate(
    model: str | Path,
    *,
    task: str = "retrieval",
    data: str | Path = "starter:test_style",
    precision: str | None = None,
    templates: Sequence[str] = ("{}",),
    limit: int | None = None,
    threads: int | None = None,
    device: str = "auto",
) -> EvalReport:
    """Measure a model by name or folder: a run, a model folder, a bundle, an open_clip name.

    ``task``: retrieval or zero-shot. ``data``: a starter set, pairs in any form of data.train, or a
    folder of classes. Raises TinyClipError; torch is imported only for models that need it.
    """
    from tinyclip_edge.evaluation import check_openable, check_set, evaluate_model, open_embedder

    check_openable(str(model))
    check_set(str(data))
    embedder = open_embedder(str(model), precision=precision, threads=threads, device=device)
    return evaluate_model(embedder, task=task, data=str(data), templates=templates, limit=limit)


def compare(
    models: Sequence[str | Path],
    *,
    data: Sequence[str | Path] = ("starter:test_style",),
    task: str = "auto",
    templates: Sequence[str] = ("{}",),
    limit: int | None = None,
    resampling: Resampling | None = None,
    threads: int | None = None,
    device: str = "auto",
) -> Standings:
    """Rank models by several evaluation sets, and say which differences are certain.

    ``models`` and ``data`` are named as for ``evaluate``; ``task`` auto is zero-shot for sets with
    classes, else retrieval. Each model is loaded once; one that fails is left out, with a
    warning. Raises TinyClipError.
    """
    from tinyclip_edge.evaluation.many_sets import rank_models
    from tinyclip_edge.evaluation.standings import DEFAULT

    return rank_models(
        [*map(str, models)], [*map(str, data)], task=task, templates=templates, limit=limit,
        resampling=resampling or DEFAULT, threads=threads, device=device,
    )  # fmt: skip


def convert(
    source: str | Path,
    out: str | Path,
    *,
    config: str | None = None,
    quick_gelu: bool | None = None,
    layout: Literal["open_clip", "huggingface"] = "open_clip",
) -> Conversion:
    """Identify a published checkpoint and save it as a model folder; see ``convert --help``.

    Raises TinyClipError.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout {layout!r}{did_you_mean(str(layout), LAYOUTS)}")
    from tinyclip_edge.models import check_checkpoint, check_config

    folder = Path(out)
    require_empty(folder)
    check_checkpoint(str(source))
    if config is not None:
        check_config(config)
    from tinyclip_edge.models import convert_checkpoint, save_huggingface, save_local_dir

    conversion = convert_checkpoint(str(source), config=config, quick_gelu=quick_gelu)
    save = save_huggingface if layout == "huggingface" else save_local_dir
    save(folder, conversion.clip)
    return conversion
