"""The frozen model that is imitated, asked for its features batch by batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinyclip_edge.data import Batch, PixelCodec, TeacherFeatures
from tinyclip_edge.losses import gather_with_grad
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.train.encode import PairEncoder, tokenize
from tinyclip_edge.train.ranks import Ranks

Ints = npt.NDArray[np.int64]
Counts = tuple[int, ...] | None  # rows of each process, where they differ


class Teacher:
    """A CLIP that only answers: eval mode, no gradients; with a cache its features are kept."""

    def __init__(
        self,
        clip: LoadedClip,
        codec: PixelCodec,
        *,
        device: torch.device,
        features: TeacherFeatures | None = None,
    ) -> None:
        self.encoder = PairEncoder(clip).to(device).eval().requires_grad_(False)
        self.features = features
        self.scale = clip.logit_scale
        self.embedding_dim = clip.embedding_dim
        self._tokenizer = clip.tokenizer
        self._codec = codec
        self._device = device
        self._ranks = Ranks()

    @torch.no_grad()
    def answer(self, batch: Batch, counts: Counts = None) -> tuple[Tensor, Tensor]:
        """Return image and text features ``[B, D]`` of a batch, of all processes' shares.

        Each process computes what its own share lacks; a cache holds the rows of all of them.
        """
        if self.features is None or batch.image_ids is None or batch.caption_ids is None:
            everything = np.arange(len(batch.keys))
            image, text = self._images(batch, everything), self._texts(batch, everything)
            return gather_with_grad(image, counts), gather_with_grad(text, counts)
        tables = self.features
        image = tables.image.get(batch.image_ids, lambda at: self._divide(batch, at, self._images))
        text = tables.text.get(batch.caption_ids, lambda at: self._divide(batch, at, self._texts))
        return image.to(self._device), text.to(self._device)

    def _divide(self, batch: Batch, at: Ints, encode: Callable[[Batch, Ints], Tensor]) -> Tensor:
        """Encode rows ``at`` of the whole batch, each on the process that holds it."""
        if self._ranks.count == 1:
            return encode(batch, at)
        owner, own = np.divmod(at, len(batch.keys))
        mine = own[owner == self._ranks.number]
        nothing = torch.zeros(0, self.embedding_dim, device=self._device)
        part = encode(batch, mine) if len(mine) else nothing
        counts = np.bincount(owner, minlength=self._ranks.count).tolist()
        order = owner.argsort(kind="stable").argsort()
        return gather_with_grad(part, counts)[torch.from_numpy(order).to(self._device)]

    def _images(self, batch: Batch, at: Ints) -> Tensor:
        pixels = batch.pixels[torch.from_numpy(at)].to(self._device)
        return self.encoder.encode_image(self._codec.restore(pixels))

    def _texts(self, batch: Batch, at: Ints) -> Tensor:
        tokens = tokenize(self._tokenizer, [batch.captions[i] for i in at])
        return self.encoder.encode_text(tokens.to(self._device))
