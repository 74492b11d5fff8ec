"""Protocols of models in evaluation and demo, implemented with PyTorch and with ONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

    from tinyclip_edge.runtime.index import ImageIndex

ImageInput: TypeAlias = "str | Path | bytes | Image.Image | npt.NDArray[np.uint8]"
Features: TypeAlias = npt.NDArray[np.float32]
# A collection: pictures, folders of pictures, or one folder.
Images: TypeAlias = "Iterable[ImageInput] | str | Path"
OnError: TypeAlias = Literal["raise", "skip"]  # for a picture that cannot be read
# True for a bar on stderr, or a function of the pictures done and their total, None if unknown.
Progress: TypeAlias = "bool | Callable[[int, int | None], None]"


@dataclass(frozen=True, slots=True)
class EmbedderSpec:
    """Properties of a model, for tables and pages."""

    image_size: int  # pixels, square
    embedding_dim: int
    encoder_parameters: int  # both towers, without the token embedding
    token_parameters: int  # token embedding
    bytes_on_disk: int  # of all that it loads, weights in their precision
    runtime: str  # "torch" or "onnxruntime"
    precision: str  # "fp32", "fp16", "int8"


class Embedder(Protocol):
    """Image and text encoder of one model."""

    @property
    def name(self) -> str:
        """Display name."""
        ...

    @property
    def spec(self) -> EmbedderSpec:
        """Sizes, runtime and precision."""
        ...

    @property
    def logit_scale(self) -> float:
        """Factor on cosine similarities before softmax (already exponentiated)."""
        ...

    def encode_image(self, images: Sequence[ImageInput]) -> Features:
        """Return float32 ``[N, D]``, unit norm."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Features:
        """Return float32 ``[N, D]``, unit norm."""
        ...


class Indexer(Protocol):
    """A model that embeds a collection, such as ``EdgeCLIP``."""

    @property
    def model_hash(self) -> str:
        """Identifier of weights and precision."""
        ...

    def decoding(self, mode: str) -> Indexer:
        """Return the same model with another decode mode."""
        ...

    def index(
        self, images: Images, keys: Iterable[str] | None = None,
        *, metadata: Iterable[Mapping[str, Any]] | None = None,
        on_error: OnError = "raise", progress: Progress = False,
    ) -> ImageIndex:  # fmt: skip
        """Embed pictures."""
        ...


@runtime_checkable
class TextTokens(Protocol):
    """A model that exposes the token ids of a text."""

    @property
    def context_length(self) -> int:
        """Number of tokens to which a text is truncated, including start and end."""
        ...

    def token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text as the text tower receives them."""
        ...

    def fits_context(self, text: str) -> bool:
        """Whether the text fits the context without truncation."""
        ...
