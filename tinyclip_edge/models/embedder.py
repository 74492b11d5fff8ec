"""A PyTorch CLIP behind the Embedder protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tinyclip_edge.errors import DataError
from tinyclip_edge.models.clip import LoadedClip, count_parameters
from tinyclip_edge.models.tokenization import pad_token_id
from tinyclip_edge.runtime.images import open_image
from tinyclip_edge.runtime.preprocess import Preprocess
from tinyclip_edge.runtime.protocol import EmbedderSpec, Features, ImageInput

Item = TypeVar("Item")


class TorchEmbedder:
    """Encode images and texts with a LoadedClip, which moves to ``device``."""

    def __init__(
        self, clip: LoadedClip, *, device: str | torch.device = "cpu", batch_size: int = 64
    ) -> None:
        self._clip = clip
        self._device = torch.device(device)
        self._batch_size = batch_size
        clip.model.to(self._device)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._clip.name

    @property
    def spec(self) -> EmbedderSpec:
        """Sizes of the model; bytes count its weights in the precision they run in.

        A weight file may be float16: by file size, a teacher would look half as large as it is
        next to a float32 student.
        """
        count = count_parameters(self._clip.model)
        weights = self._clip.model.state_dict().values()
        return EmbedderSpec(
            image_size=self._clip.image_size,
            embedding_dim=self._clip.embedding_dim,
            encoder_parameters=count.encoders,
            token_parameters=count.token_embedding,
            bytes_on_disk=sum(tensor.nbytes for tensor in weights),
            runtime="torch",
            precision="fp32",
        )

    @property
    def logit_scale(self) -> float:
        """Factor on cosine similarities before softmax."""
        return self._clip.logit_scale

    @property
    def preprocess(self) -> Preprocess:
        """The model's preprocessing, without torch, so that it can be timed separately."""
        return Preprocess.from_config(self._clip.config["preprocess_cfg"])

    def encode_image(self, images: Sequence[ImageInput]) -> Features:
        """Return float32 ``[N, D]``, unit norm; DataError for an image that does not decode."""
        preprocess = self._clip.preprocess
        batches = (
            torch.stack([preprocess(open_image(image)) for image in part])
            for part in self._parts(images)
        )
        return self._encode("encode_image", batches)

    def encode_text(self, texts: Sequence[str]) -> Features:
        """Return float32 ``[N, D]``, unit norm. Raises DataError for a single str."""
        if isinstance(texts, str):
            raise DataError("encode_text takes a list of texts, not one str")
        batches = (self._clip.tokenizer(list(part)) for part in self._parts(texts))
        return self._encode("encode_text", batches)

    @property
    def context_length(self) -> int:
        """Tokens a text is cut to, start and end included."""
        return self._clip.context_length

    def token_ids(self, text: str) -> list[int]:
        """Return the ids that go into the text tower, padded."""
        ids: list[int] = self._clip.tokenizer([text])[0].tolist()
        return ids

    def fits_context(self, text: str) -> bool:
        """Whether the whole text goes into the text tower, nothing cut off."""
        length = self.context_length
        # A piece holds one character or more, in byte-pair and sentencepiece files alike.
        if text.isascii() and len(text) + 2 <= length:
            return True
        tokenizer: Any = self._clip.tokenizer
        longer = tokenizer([text], context_length=length + 1)[0]
        # With one more place an uncut text ends in padding, and a cut one does not.
        shorter = self._clip.tokenizer([text])[0]
        return bool((longer[:-1] == shorter).all()) and int(longer[-1]) == pad_token_id(tokenizer)

    def _parts(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        for start in range(0, len(items), self._batch_size):
            yield items[start : start + self._batch_size]

    def _encode(self, method: str, batches: Iterable[Tensor]) -> Features:
        model = self._clip.model
        encode = getattr(model, method)
        # A student that is evaluated during training returns to train mode.
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                parts = [encode(b.to(self._device), normalize=True).float().cpu() for b in batches]
        finally:
            model.train(training)
        if not parts:
            return np.zeros((0, self._clip.embedding_dim), dtype=np.float32)
        features: Features = torch.cat(parts).numpy()
        return features
