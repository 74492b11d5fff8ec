"""What a run is trained on: pairs, or unpaired pictures and texts."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from tinyclip_edge.config.section import Section

Patterns: TypeAlias = str | list[str]
SLOT = "{}"  # of a template


class TextsConfig(Section):
    """Texts made of labels: every label in every template."""

    labels: Patterns = Field(
        min_length=1, description="File with one label per line, or a list of labels."
    )
    templates: list[Annotated[str, Field(min_length=1)]] = Field(
        default=["a photo of a {}."],
        min_length=1,
        description='Sentences with {} in place of the label; "{}" is the label itself.',
    )

    @model_validator(mode="after")
    def _check(self) -> TextsConfig:
        for template in self.templates:
            if template.count(SLOT) != 1:
                raise ValueError(f"template '{template}' must contain {SLOT} once, for the label")
        return self


def _kind_of_texts(value: object) -> str:
    return "labels" if isinstance(value, (dict, TextsConfig)) else "files"


TextsSource: TypeAlias = Annotated[
    Annotated[Patterns, Field(min_length=1), Tag("files")] | Annotated[TextsConfig, Tag("labels")],
    Discriminator(_kind_of_texts),
]


class SourceConfig(Section):
    """A source of a mixture: pairs, or pictures and texts."""

    pairs: Patterns | None = Field(
        default=None, min_length=1, description="Pairs, in any form of data.train."
    )
    images: Patterns | None = Field(default=None, min_length=1, description="As data.images.")
    texts: TextsSource | None = Field(default=None, description="As data.texts.")
    weight: float = Field(
        default=1.0, gt=0, description="Its share of each batch, relative to the other weights."
    )

    @property
    def is_paired(self) -> bool:
        """Whether each picture has captions of its own."""
        return self.pairs is not None

    @model_validator(mode="after")
    def _check(self) -> SourceConfig:
        if (self.pairs is None) == (self.images is None):
            raise ValueError("needs either pairs or images, with texts or without")
        if self.is_paired and self.texts is not None:
            raise ValueError("texts are drawn independently of images; pairs have captions already")
        return self
