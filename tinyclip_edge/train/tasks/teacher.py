"""The frozen teachers, and their features of each batch.

B pairs; D is the total width of the features of all teachers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from tinyclip_edge.data import Batch, CachedRows, Crops, PixelCodec, TeacherFeatures
from tinyclip_edge.data.views import RATIO
from tinyclip_edge.losses import TeacherPart, gather_with_grad
from tinyclip_edge.models import LoadedClip, weights_hash
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.tasks.encoders import pixel_codec, tokenize
from tinyclip_edge.train.tasks.ensemble import TeacherMember, WeightedTeacher, frozen
from tinyclip_edge.train.tasks.validation import Validation

Ints = npt.NDArray[np.int64]
Counts = tuple[int, ...] | None  # rows of each process, if they differ
MAX_BATCH = 1024  # pictures or texts in one pass, so that any batch fits in memory with the student
PROBE = ("a photo of a cat.", "Żółć, 42 — ½ & 猫")  # tokenizers differ on it


class Teacher:
    """One or more CLIPs in eval mode without gradients; ``features`` caches their results.

    Features of an ensemble are concatenated, each scaled by the root of its share of ``scale``, so
    that ``scale`` times the product of two rows is the weighted mean of the teachers' logits. All
    of them see the pictures as cropped by the first one's preprocessing, ``max_batch`` per pass.
    """

    def __init__(  # noqa: PLR0913 - one call, whose options have names
        self,
        clip: LoadedClip,
        codec: PixelCodec,
        *,
        device: torch.device,
        features: TeacherFeatures | None = None,
        ensemble: Sequence[WeightedTeacher | tuple[LoadedClip, float]] = (),
        temperature: float = 1.0,
        fusion: str = "mean",
        dtype: torch.dtype = torch.float32,
        max_batch: int = MAX_BATCH,
    ) -> None:
        further = [WeightedTeacher(*each) for each in ensemble]
        total = 1.0 + sum(each.weight for each in further)
        teachers = [
            each._replace(weight=each.weight / total)
            for each in (WeightedTeacher(clip, 1.0, temperature), *further)
        ]
        scales = [each.weight * each.clip.logit_scale / each.temperature for each in teachers]
        self.scale = sum(scales)
        self.members = [
            TeacherMember(
                each.clip,
                frozen(each.clip, device, dtype),
                codec if each.clip is clip else pixel_codec(each.clip),
                each.weight,
                each.temperature,
                scale / self.scale,
                None if each.clip is clip else each.clip.image_size,
            )
            for each, scale in zip(teachers, scales, strict=True)
        ]
        self.encoder = self.members[0].encoder
        self.features = features
        self.fusion = fusion  # of affinities; it does not affect how features are joined
        self.embedding_dim = sum(each.clip.embedding_dim for each in teachers)
        self._dtype = dtype
        self._max_batch = max_batch
        self.device = device
        self.codec = codec
        self._distributed = DistributedContext()

    @property
    def name(self) -> str:
        """Names of all teachers."""
        return " + ".join(member.clip.name for member in self.members)

    @property
    def bias(self) -> float | None:
        """Mean sigmoid bias, weighted like the teachers; None if one was trained with softmax."""
        biases = [member.bias for member in self.members]
        if any(bias is None for bias in biases):
            return None
        return sum(m.weight * (b or 0.0) for m, b in zip(self.members, biases, strict=True))

    @property
    def parts(self) -> tuple[TeacherPart, ...]:
        """The columns, weight and bias of each teacher of an ensemble; empty for a single one."""
        if len(self.members) == 1:
            return ()
        parts, start = [], 0
        for member in self.members:
            stop = start + member.clip.embedding_dim
            parts.append(TeacherPart(slice(start, stop), member.weight, member.bias))
            start = stop
        return tuple(parts)

    @property
    def sha256(self) -> str:
        """Hash of the parameters and the ensemble weights of all teachers."""
        if len(self.members) == 1:
            return self._hashes[0]
        pairs = zip(self._hashes, self.members, strict=True)
        lines = [(sha256, m.weight, *m.temperature_entry.values()) for sha256, m in pairs]
        text = "\n".join(" ".join(map(str, line)) for line in lines)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def _hashes(self) -> list[str]:
        return [weights_hash(member.clip.model) for member in self.members]

    def with_features(self, features: TeacherFeatures | None) -> Teacher:
        """Return this teacher with tables in memory that cache its features."""
        teacher = copy(self)
        teacher.features = features
        return teacher

    def recipe(self, crops: Crops | None) -> dict[str, Any]:
        """Return everything that determines the features of a picture or text, as plain data."""
        views = None
        if crops is not None:
            views = {"count": crops.count, "crop_scale": list(crops.scale), "ratio": list(RATIO)}
            views["size"] = list(crops.size)
        single = len(self.members) == 1  # then features do not depend on the temperature
        return {
            "teachers": [
                {
                    "name": member.clip.name,
                    "weights": sha256,
                    "weight": member.weight,
                    **({} if single else member.temperature_entry),
                    "dtype": str(self._dtype).removeprefix("torch."),
                    "preprocess": dict(member.clip.config["preprocess_cfg"]),
                    "tokenizer": _tokens(member.clip),
                }
                for member, sha256 in zip(self.members, self._hashes, strict=True)
            ],
            "views": views,
            "pictures": "upright RGB on white",
            "width": self.embedding_dim,
            "stored": "float16",
        }

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return image features float32 ``[B, D]`` of uint8 ``[B, 3, H, W]``."""
        parts = torch.split(pixels, self._max_batch)
        return torch.cat([self._encode_images(part.to(self.device)) for part in parts])

    @torch.no_grad()
    def encode_texts(self, captions: Sequence[str]) -> Tensor:
        """Return text features float32 ``[B, D]``."""
        if not captions:
            return self._no_rows()
        starts = range(0, len(captions), self._max_batch)
        return torch.cat([self._encode_texts(captions[i : i + self._max_batch]) for i in starts])

    @torch.no_grad()
    def features_of(self, batch: Batch, counts: Counts = None) -> tuple[Tensor, Tensor]:
        """Return image and text features ``[B, D]`` of a batch, over all processes.

        Texts are ``[0, D]`` for a batch of pictures alone. Each process computes the missing rows
        of its own part; a table in memory has the rows of all.
        """
        text = self._no_rows()
        if self.features is None or batch.image_ids is None or batch.caption_ids is None:
            image = self._completed(batch.image_features, batch, self._images)
            if batch.captions:
                text = self._completed(batch.text_features, batch, self._texts)
                text = gather_with_grad(text, counts)
            return gather_with_grad(image, counts), text
        tables = self.features
        image = self._image_rows(batch, tables, counts)
        if batch.captions:
            text = self._text_rows(batch, batch.caption_ids, tables)
        return image.to(self.device), text.to(self.device)

    @torch.no_grad()
    def fill_tables(self, batch: Batch, *, pictures: bool) -> None:
        """Fill the tables in memory with what ``features_of`` would compute for a batch."""
        if self.features is None or batch.caption_ids is None:
            return
        if pictures:
            self._image_rows(batch, self.features, None)
        if batch.captions:
            self._text_rows(batch, batch.caption_ids, self.features)

    def measure(self, validation: Validation) -> dict[str, float]:
        """Return the accuracies of the whole ensemble, as Validation.measure does."""
        if validation.reference is not None:
            return validation.compared(validation.reference)
        if len(self.members) == 1:
            return validation.measure(self.encoder, self.members[0].clip)
        images, texts = self._measured(validation)
        sizes = {"images": float(len(images)), "labels": float(len(texts))}
        return {**validation.accuracies(images, texts), **sizes}

    def logits(self, validation: Validation, scale: float) -> Tensor:
        """Return ``scale`` times the similarities ``[N, M]`` of all pictures and texts of a set."""
        images, texts = self._measured(validation)
        return scale * (images @ texts.T).cpu()

    def _measured(self, validation: Validation) -> tuple[Tensor, Tensor]:
        features = [
            replace(validation, codec=m.codec).features(m.encoder, m.clip) for m in self.members
        ]
        images, texts = (self._joined(tower) for tower in zip(*features, strict=True))
        return images, texts

    def _encode_images(self, pixels: Tensor) -> Tensor:
        return self._joined(
            [m.encoder.encode_image(m.codec.restore(pixels, m.size)) for m in self.members]
        )

    def _encode_texts(self, captions: Sequence[str]) -> Tensor:
        return self._joined(
            [
                m.encoder.encode_text(tokenize(m.clip.tokenizer, captions).to(self.device))
                for m in self.members
            ]
        )

    def _joined(self, features: Sequence[Tensor]) -> Tensor:
        if len(features) == 1:
            return features[0]
        factors = [math.sqrt(member.share) for member in self.members]
        return torch.cat([f * x for f, x in zip(factors, features, strict=True)], dim=-1)

    def _completed(
        self, cached: CachedRows | None, batch: Batch, encode: Callable[[Batch, Ints], Tensor]
    ) -> Tensor:
        """Return the rows of this process: cached ones, and the others computed."""
        if cached is None:
            return encode(batch, np.arange(len(batch.keys)))
        rows = F.normalize(cached.values.to(self.device).float(), dim=-1)
        missing = np.flatnonzero(~cached.there)
        if len(missing):
            rows[torch.from_numpy(missing).to(self.device)] = encode(batch, missing)
        return rows

    def _divide(self, batch: Batch, at: Ints, encode: Callable[[Batch, Ints], Tensor]) -> Tensor:
        """Encode rows ``at`` of the whole batch, each on the process that holds it."""
        if self._distributed.count == 1:
            return encode(batch, at)
        owner, row = np.divmod(at, len(batch.keys))
        local_rows = row[owner == self._distributed.number]
        part = encode(batch, local_rows) if len(local_rows) else self._no_rows()
        counts = np.bincount(owner, minlength=self._distributed.count).tolist()
        order = owner.argsort(kind="stable").argsort()
        return gather_with_grad(part, counts)[torch.from_numpy(order).to(self.device)]

    def _image_rows(self, batch: Batch, tables: TeacherFeatures, counts: Counts) -> Tensor:
        """Return ``[B, D]`` over all processes; features of random crops are not cached."""
        if batch.draws is not None or batch.image_ids is None:
            rows = self._images(batch, np.arange(len(batch.keys)))
            return gather_with_grad(rows, counts)
        return tables.image.get(batch.image_ids, lambda at: self._divide(batch, at, self._images))

    def _text_rows(self, batch: Batch, ids: Ints, tables: TeacherFeatures) -> Tensor:
        return tables.text.get(ids, lambda at: self._divide(batch, at, self._texts))

    def _no_rows(self) -> Tensor:
        return torch.zeros(0, self.embedding_dim, device=self.device)

    def _images(self, batch: Batch, at: Ints) -> Tensor:
        # Copy rows in parts: all at once would take as much memory as the batch itself.
        parts = torch.split(torch.from_numpy(at), self._max_batch)
        return torch.cat([self.encode_images(batch.pixels[part]) for part in parts])

    def _texts(self, batch: Batch, at: Ints) -> Tensor:
        return self.encode_texts([batch.captions[i] for i in at])


def _tokens(clip: LoadedClip) -> str:
    """Return a hash of the tokens of some texts."""
    return hashlib.sha256(clip.tokenizer(list(PROBE)).numpy().tobytes()).hexdigest()
