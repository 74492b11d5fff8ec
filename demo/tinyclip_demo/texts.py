"""Parse labels, prompt templates and queries typed by users."""

from __future__ import annotations

from collections.abc import Sequence

from tinyclip_edge.errors import DataError

MAX_LABELS = 200
MAX_TEXT = 200  # characters of one label, template or query
MAX_TEMPLATES = 16
BETWEEN_TEMPLATES = "|"


def parse_labels(labels: Sequence[str] | str) -> tuple[str, ...]:
    """Split at commas and line breaks, drop blanks and repeats; DataError for fewer than two."""
    parts = labels.replace("\n", ",").split(",") if isinstance(labels, str) else labels
    return _distinct(parts, "separated by commas or line breaks")


def parse_label_lines(text: str) -> tuple[str, ...]:
    """Split at line breaks only, otherwise like ``parse_labels``; a label may have commas."""
    return _distinct(text.splitlines(), "one per line")


def _distinct(parts: Sequence[str], how: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(" ".join(part.split()) for part in parts if part.strip()))
    if not names:
        raise DataError(f"no labels: enter two or more, {how}")
    if len(names) == 1:
        raise DataError(
            f"only one label ({names[0]}): it would always get 100 %; enter at least two, {how}"
        )
    if len(names) > MAX_LABELS:
        raise DataError(f"{len(names):,} labels are too many: at most {MAX_LABELS}")
    return tuple(check_text(name, "label") for name in names)


def parse_templates(text: str) -> tuple[str, ...]:
    """Split at ``|``; raise DataError for a template without ``{}`` or for too many."""
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(BETWEEN_TEMPLATES)))
    templates = tuple(part for part in parts if part) or ("{}",)
    if len(templates) > MAX_TEMPLATES:
        raise DataError(
            f"{len(templates):,} prompt templates are too many: at most {MAX_TEMPLATES}"
        )
    for template in templates:
        if "{}" not in template:
            raise DataError("the prompt template needs {} in place of the label")
        if len(template) > MAX_TEXT:
            raise DataError(
                f"the prompt template has {len(template):,} characters: at most {MAX_TEXT:,}"
            )
    return templates


def fill_template(template: str, labels: Sequence[str]) -> tuple[str, ...]:
    """Replace ``{}`` in the template by each label; other braces stay as they are."""
    return tuple(template.replace("{}", label).strip() for label in labels)


def check_text(text: str, kind: str) -> str:
    """Return the text with single spaces; raise DataError when it is blank or too long."""
    clean = " ".join(text.split())
    if not clean:
        raise DataError(f"the {kind} is blank: enter a word or a short phrase")
    if len(clean) > MAX_TEXT:
        raise DataError(f"the {kind} has {len(clean):,} characters: at most {MAX_TEXT:,}")
    return clean
