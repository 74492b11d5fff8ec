"""The request of a tailoring; names and paths are checked without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinyclip_edge.errors import ConfigError, DataError
from tinyclip_edge.paths import expanded, read_lines
from tinyclip_edge.train.preflight.finding import MIN_IMAGES

CLASSIFIER = "classifier"  # one file for the labels
TOWERS = "towers"  # for any query
FORMS = (CLASSIFIER, TOWERS)


@dataclass(frozen=True, slots=True)
class TailorRequest:
    """Pictures, labels, budget and time."""

    images: Path
    labels: tuple[str, ...]
    teacher: str
    out: Path
    texts: tuple[str, ...] = ()
    templates: tuple[str, ...] = ("{}",)
    max_mb: float = 8.0
    max_ms: float = 5.0
    minutes: float = 20.0
    candidates: int = 8
    larger_patches: bool = False  # also tried, beside the teacher's
    form: str = CLASSIFIER
    general: str | None = None  # MODEL to compare with
    seed: int = 0

    @property
    def prompts(self) -> list[str]:
        """The labels in every template, label by label, and the texts."""
        from tinyclip_edge.runtime.prompts import fill_templates

        return list(dict.fromkeys([*fill_templates(self.labels, self.templates), *self.texts]))

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        plain = {**asdict(self), "images": str(self.images), "out": str(self.out)}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in plain.items()}


def read_request(
    images: str | Path,
    labels: str | Path,
    texts: str | Path | None,
    **settings: Any,  # noqa: ANN401 - the other fields of a request
) -> TailorRequest:
    """Return the request of a folder and files of lines. Raises DataError and ConfigError."""
    from tinyclip_edge.runtime.picture_files import folder_pictures

    folder = Path(expanded(images))
    request = TailorRequest(
        images=folder,
        labels=read_lines(Path(expanded(labels)), "labels"),
        texts=() if texts is None else read_lines(Path(expanded(texts)), "texts"),
        **settings,
    )
    _check_labels(request, labels)
    check_numbers(request)
    pictures = folder_pictures([folder])
    if len(pictures) < MIN_IMAGES:
        raise DataError(
            f"{folder} has {len(pictures):,} pictures; at least {MIN_IMAGES} are needed, of "
            "which a fifth is held out"
        )
    return request


def check_models(request: TailorRequest) -> None:
    """Raise ModelError for a teacher or a general student that does not exist."""
    from tinyclip_edge.evaluation import check_openable
    from tinyclip_edge.models import check_model

    check_model(request.teacher)
    if request.general is not None:
        check_openable(request.general)


def _check_labels(request: TailorRequest, file: str | Path) -> None:
    from tinyclip_export.bundle.label_classifier import check_labels

    labels = request.labels
    check_labels(labels)
    if len(labels) < 2:
        raise DataError(
            f"labels file {file} has one label, {labels[0]!r}, so every picture would get it; add "
            "labels to distinguish it from"
        )
    request.prompts  # noqa: B018 - raises for templates without {}


def check_numbers(request: TailorRequest) -> None:
    """Raise ConfigError for an unknown form, and for numbers that are not above 0."""
    if request.form not in FORMS:
        raise ConfigError(f"form {request.form!r} is neither {' nor '.join(FORMS)}")
    for name in ("max_mb", "max_ms", "minutes", "candidates"):
        value = getattr(request, name)
        if not 0 < value < float("inf"):
            raise ConfigError(f"{name} is {value:g}; it must be above 0")
