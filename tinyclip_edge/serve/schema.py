"""Requests of the server, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EmbeddingsRequest(_Request):
    """OpenAI's request for embeddings, with Infinity's ``modality``."""

    input: str | list[str] = Field(description="A text or a picture, or a list of them.")
    model: str | None = Field(default=None, description="Ignored: a server has one model.")
    modality: Literal["text", "image"] | None = Field(
        default=None,
        description="What the inputs are; null: data URLs are pictures, everything else text.",
    )
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="base64: little-endian float32, exact."
    )
    dimensions: int | None = Field(
        default=None, ge=1, description="Dimensions to return, normalised again; null: all."
    )
    user: str | None = Field(default=None, description="Ignored.")


class ClassifyRequest(_Request):
    """A picture and the labels that it may have."""

    image: str = Field(description="A data URL, or base64.")
    labels: list[str] = Field(min_length=1, description="What the picture may show.")
    templates: list[str] = Field(default=["{}"], min_length=1, description="Prompts with {}.")
    top: int = Field(default=5, ge=1, description="Labels to return, the most probable first.")
    threshold: Annotated[float, Field(ge=0, le=1)] | Literal["calibrated"] | None = Field(
        default=None,
        description="`unknown` is true if the best probability is lower; calibrated: the bundle's "
        "own threshold, for the labels that it was calibrated for.",
    )


class SearchRequest(_Request):
    """What the pictures to search for in the server's index show, or look like."""

    text: str | None = Field(default=None, description="What the pictures show.")
    image: str | None = Field(default=None, description="A picture to resemble, as in classify.")
    without: str | list[str] = Field(default=[], description="What they do not show.")
    top: int = Field(default=10, ge=1, description="Pictures to return, the best first.")
    min_score: float | None = Field(default=None, ge=-1, le=1, description="Lowest cosine.")
