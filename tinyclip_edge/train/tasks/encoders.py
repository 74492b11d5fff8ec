"""Both towers of a CLIP in training: unit-norm float32 features, texts cut to length.

Shapes: B pairs, L tokens of the longest caption, C context length, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyclip_edge.data import PixelCodec
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.models.frozen import frozen_modules
from tinyclip_edge.models.lean import LENGTH_GROUPS, LeanTowers

if TYPE_CHECKING:
    from typing_extensions import Self

Tokenizer = Callable[[Sequence[str]], Tensor]
MAX_CACHED = 65_536  # texts


def pixel_codec(clip: LoadedClip) -> PixelCodec:
    """Return the codec of a model's preprocessing."""
    table = clip.config["preprocess_cfg"]
    return PixelCodec(clip.preprocess, table["mean"], table["std"])


def picture_bytes(clip: LoadedClip) -> int:
    """Return the size in bytes of a decoded picture: three channels of uint8."""
    height, width = picture_size(clip)
    return 3 * height * width


def picture_size(clip: LoadedClip) -> tuple[int, int]:
    """Return height and width of the output of a model's preprocessing, in pixels."""
    size = clip.config["preprocess_cfg"]["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


class TokenMemory:
    """A tokenizer that caches texts, because the captions of a small set recur in every epoch."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._rows: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return int64 ``[N, C]``."""
        if len(self._rows) > MAX_CACHED:
            self._rows.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if new:
            self._rows.update(zip(new, self._tokenizer(new), strict=True))
        return torch.stack([self._rows[text] for text in texts])


def tokenize(tokenizer: Tokenizer, captions: Sequence[str]) -> Tensor:
    """Return int64 ``[B, L]`` without the columns of padding after the longest caption."""
    if not captions:
        return torch.zeros(0, 0, dtype=torch.int64)
    tokens = tokenizer(list(captions))
    used = tokens.ne(0).any(dim=0).nonzero()
    return tokens[:, : int(used.max()) + 1] if len(used) else tokens


class EncodedPairs(NamedTuple):
    """Unit-norm features ``[B, D]`` of pairs, and how their similarities become logits."""

    image: Tensor
    text: Tensor
    scale: Tensor  # scalar, not its logarithm
    bias: Tensor  # scalar; 0 in a model without one


class PairEncoder(nn.Module):
    """A CLIP whose forward takes both sides of a pair, so that it can be wrapped as a whole."""

    def __init__(self, clip: LoadedClip) -> None:
        super().__init__()
        self.model = clip.model
        self.context_length = clip.context_length
        self._lean = LeanTowers(clip.model)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen towers stay in evaluation mode."""
        super().train(mode)
        for tower in frozen_modules(self.model):
            tower.eval()
        return self

    @property
    def log_scale(self) -> nn.Parameter:
        """Logarithm of the factor on cosine similarities."""
        parameter = self.model.logit_scale
        assert isinstance(parameter, nn.Parameter)
        return parameter

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """Bias added to logits before a sigmoid; None in a model trained with softmax."""
        bias = getattr(self.model, "logit_bias", None)
        return bias if isinstance(bias, nn.Parameter) else None

    def forward(self, pixels: Tensor, tokens: Tensor) -> EncodedPairs:
        """Return the features of both towers, scale and bias; ``[0, D]`` without tokens."""
        image = self.encode_image(pixels)
        return self.encoded(image, self.encode_text(tokens) if len(tokens) else no_texts(image))

    def encoded(self, image: Tensor, text: Tensor) -> EncodedPairs:
        """Return features with scale and bias."""
        scale, bias = self.log_scale.float().exp(), self.logit_bias
        if bias is None:
            return EncodedPairs(image, text, scale, scale.new_zeros(()))
        # A copy: it is logged after the step has changed the parameter.
        return EncodedPairs(image, text, scale, bias.float().reshape(()).clone())

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return ``[B, D]`` of float32 ``[B, 3, H, W]``."""
        encode: Callable[[Tensor], Tensor] = self.model.encode_image  # type: ignore[assignment]
        features = self._lean.encode_image(pixels) if self._lean.image else encode(pixels)
        return F.normalize(features.float(), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return ``[B, D]`` of ``[B, L]`` tokens, L up to the context length."""
        if self._lean.text:
            features = self._lean.encode_text(tokens)
        else:
            full = F.pad(tokens, (0, self.context_length - tokens.shape[1]))
            features = self.model.encode_text(full)  # type: ignore[operator]
        return F.normalize(features.float(), dim=-1)

    def compile_blocks(self) -> None:
        """Compile the blocks of transformers with torch; leave other towers unchanged."""
        self._lean.compile()


def no_texts(image: Tensor) -> Tensor:
    """Return empty text features ``[0, D]`` for image features ``[B, D]``."""
    return image.detach()[:0]


def by_length(tokens: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Encode ids ``[B, L]`` to ``[B, D]`` in groups of similar length, which is faster on a CPU."""
    if tokens.device.type != "cpu" or len(tokens) < LENGTH_GROUPS:
        return encode(tokens)
    lengths = tokens.ne(0).cumsum(dim=-1).argmax(dim=-1) + 1  # up to the last token
    order = lengths.argsort(stable=True)
    parts = [
        encode(tokens[group, : int(lengths[group].max())]) for group in order.chunk(LENGTH_GROUPS)
    ]
    return torch.cat(parts)[order.argsort()]
