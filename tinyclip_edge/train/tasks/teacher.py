"""The frozen models that are imitated, asked for their features batch by batch.

B pairs; D is the width of the features of all teachers together.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from tinyclip_edge.config import TeacherConfig
from tinyclip_edge.data import Batch, CachedRows, Crops, PixelCodec, TeacherFeatures
from tinyclip_edge.data.views import RATIO
from tinyclip_edge.losses import gather_with_grad
from tinyclip_edge.models import LoadedClip, load_clip, weights_hash
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.tasks.encoders import PairEncoder, pixel_codec, tokenize
from tinyclip_edge.train.tasks.validation import Validation

Ints = npt.NDArray[np.int64]
Counts = tuple[int, ...] | None  # rows of each process, where they differ
Also = tuple[LoadedClip, float]  # one more teacher and its weight; the first has 1
AT_ONCE = 1024  # pictures or texts, so that a batch of any size fits beside the student
PROBE = ("a photo of a cat.", "Żółć, 42 — ½ & 猫")  # tells tokenizers apart


class FrozenEncoder(PairEncoder):
    """Towers without gradients, in the precision of their weights; pixels come as float32."""

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return float32 ``[B, D]``."""
        return super().encode_image(pixels.to(self.log_scale.dtype))


@dataclass(frozen=True, slots=True)
class TeacherMember:
    """One of the teachers."""

    clip: LoadedClip
    encoder: FrozenEncoder
    codec: PixelCodec
    weight: float  # normalised
    share: float  # of the joined logits
    size: int | None  # pixels to resize the first teacher's pictures to; None: they are its own


def teacher_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return what teachers run in: bfloat16 on a GPU that trains so; a CPU would be slower."""
    return torch.bfloat16 if precision == "bf16" and device.type == "cuda" else torch.float32


def load_also(config: TeacherConfig) -> list[Also]:
    """Load the teachers beside the first; ModelError."""
    return [(load_clip(one.model, one.pretrained), one.weight) for one in config.ensemble]


class Teacher:
    """CLIPs that only answer: eval mode, no gradients; with a cache their features are kept.

    Features of several are joined, each scaled by the root of its part in ``scale``, so that
    ``scale`` times a product of two rows is the weighted mean of the teachers' logits. All see the
    pictures as the first one's preprocessing cuts them, ``at_once`` of a batch at most.
    """

    def __init__(
        self,
        clip: LoadedClip,
        codec: PixelCodec,
        *,
        device: torch.device,
        features: TeacherFeatures | None = None,
        also: Sequence[Also] = (),
        dtype: torch.dtype = torch.float32,
        at_once: int = AT_ONCE,
    ) -> None:
        total = 1.0 + sum(weight for _, weight in also)
        weights = [1.0 / total, *(weight / total for _, weight in also)]
        clips = [clip, *(one for one, _ in also)]
        scales = [weight * one.logit_scale for weight, one in zip(weights, clips, strict=True)]
        self.scale = sum(scales)
        self.voices = [
            TeacherMember(
                one,
                _frozen(one, device, dtype),
                codec if one is clip else pixel_codec(one),
                weight,
                scale / self.scale,
                None if one is clip else one.image_size,
            )
            for one, weight, scale in zip(clips, weights, scales, strict=True)
        ]
        self.encoder = self.voices[0].encoder
        self.features = features
        self.embedding_dim = sum(one.embedding_dim for one in clips)
        self._dtype = dtype
        self._at_once = at_once
        self.device = device
        self.codec = codec
        self._ranks = DistributedContext()

    @property
    def name(self) -> str:
        """Names of all teachers."""
        return " + ".join(voice.clip.name for voice in self.voices)

    @property
    def sha256(self) -> str:
        """Hash of all weights, and of what each teacher weighs beside the others."""
        if len(self.voices) == 1:
            return self._hashes[0]
        told = "\n".join(f"{h} {v.weight}" for h, v in zip(self._hashes, self.voices, strict=True))
        return hashlib.sha256(told.encode()).hexdigest()

    @cached_property
    def _hashes(self) -> list[str]:
        return [weights_hash(voice.clip.model) for voice in self.voices]

    def recipe(self, crops: Crops | None) -> dict[str, Any]:
        """Return, as plain data, everything that its features of a picture or text follow from."""
        views = None
        if crops is not None:
            views = {"count": crops.count, "crop_scale": list(crops.scale), "ratio": list(RATIO)}
            views["size"] = list(crops.size)
        return {
            "teachers": [
                {
                    "name": voice.clip.name,
                    "weights": sha256,
                    "weight": voice.weight,
                    "dtype": str(self._dtype).removeprefix("torch."),
                    "preprocess": dict(voice.clip.config["preprocess_cfg"]),
                    "tokenizer": _tokens(voice.clip),
                }
                for voice, sha256 in zip(self.voices, self._hashes, strict=True)
            ],
            "views": views,
            "pictures": "upright RGB on white",
            "width": self.embedding_dim,
            "stored": "float16",
        }

    @torch.no_grad()
    def see(self, pixels: Tensor) -> Tensor:
        """Return image features float32 ``[B, D]`` of uint8 ``[B, 3, H, W]``."""
        parts = torch.split(pixels, self._at_once)
        return torch.cat([self._seen(part.to(self.device)) for part in parts])

    @torch.no_grad()
    def read(self, captions: Sequence[str]) -> Tensor:
        """Return text features float32 ``[B, D]``."""
        starts = range(0, len(captions), self._at_once)
        return torch.cat([self._read(captions[at : at + self._at_once]) for at in starts])

    @torch.no_grad()
    def answer(self, batch: Batch, counts: Counts = None) -> tuple[Tensor, Tensor]:
        """Return image and text features ``[B, D]`` of a batch, of all processes' shares.

        Each process computes what its own share lacks; a table in memory has the rows of all.
        """
        if self.features is None or batch.image_ids is None or batch.caption_ids is None:
            image = self._completed(batch.image_features, batch, self._images)
            text = self._completed(batch.text_features, batch, self._texts)
            return gather_with_grad(image, counts), gather_with_grad(text, counts)
        tables = self.features
        image = self._image_rows(batch, tables, counts)
        text = tables.text.get(batch.caption_ids, lambda at: self._divide(batch, at, self._texts))
        return image.to(self.device), text.to(self.device)

    @torch.no_grad()
    def remember(self, batch: Batch, *, pictures: bool) -> None:
        """Fill the tables in memory with what ``answer`` would compute for a batch."""
        if self.features is None or batch.caption_ids is None:
            return
        if pictures:
            self._image_rows(batch, self.features, None)
        self.features.text.get(batch.caption_ids, lambda at: self._divide(batch, at, self._texts))

    def measure(self, validation: Validation) -> dict[str, float]:
        """Return the accuracies of all teachers together, as Validation.measure."""
        if len(self.voices) == 1:
            return validation.measure(self.encoder, self.voices[0].clip)
        found = [
            replace(validation, codec=v.codec).features(v.encoder, v.clip) for v in self.voices
        ]
        images, texts = (self._joined(part) for part in zip(*found, strict=True))
        sizes = {"images": float(len(images)), "labels": float(len(texts))}
        return {**validation.accuracies(images, texts), **sizes}

    def _seen(self, pixels: Tensor) -> Tensor:
        return self._joined(
            [v.encoder.encode_image(v.codec.restore(pixels, v.size)) for v in self.voices]
        )

    def _read(self, captions: Sequence[str]) -> Tensor:
        return self._joined(
            [
                v.encoder.encode_text(tokenize(v.clip.tokenizer, captions).to(self.device))
                for v in self.voices
            ]
        )

    def _joined(self, features: Sequence[Tensor]) -> Tensor:
        if len(features) == 1:
            return features[0]
        roots = [math.sqrt(voice.share) for voice in self.voices]
        return torch.cat([r * one for r, one in zip(roots, features, strict=True)], dim=-1)

    def _completed(
        self, kept: CachedRows | None, batch: Batch, encode: Callable[[Batch, Ints], Tensor]
    ) -> Tensor:
        """Return all own rows: those that a cache brought along, and the others computed."""
        if kept is None:
            return encode(batch, np.arange(len(batch.keys)))
        rows = F.normalize(kept.values.to(self.device).float(), dim=-1)
        missing = np.flatnonzero(~kept.there)
        if len(missing):
            rows[torch.from_numpy(missing).to(self.device)] = encode(batch, missing)
        return rows

    def _divide(self, batch: Batch, at: Ints, encode: Callable[[Batch, Ints], Tensor]) -> Tensor:
        """Encode rows ``at`` of the whole batch, each on the process that holds it."""
        if self._ranks.count == 1:
            return encode(batch, at)
        owner, own = np.divmod(at, len(batch.keys))
        mine = own[owner == self._ranks.number]
        nothing = torch.zeros(0, self.embedding_dim, device=self.device)
        part = encode(batch, mine) if len(mine) else nothing
        counts = np.bincount(owner, minlength=self._ranks.count).tolist()
        order = owner.argsort(kind="stable").argsort()
        return gather_with_grad(part, counts)[torch.from_numpy(order).to(self.device)]

    def _image_rows(self, batch: Batch, tables: TeacherFeatures, counts: Counts) -> Tensor:
        """Return ``[B, D]`` of all processes; of crops drawn anew nothing is kept."""
        if batch.draws is not None or batch.image_ids is None:
            mine = self._images(batch, np.arange(len(batch.keys)))
            return gather_with_grad(mine, counts)
        return tables.image.get(batch.image_ids, lambda at: self._divide(batch, at, self._images))

    def _images(self, batch: Batch, at: Ints) -> Tensor:
        # Rows are copied a part at a time: those of a large batch weigh as much as the batch.
        parts = torch.split(torch.from_numpy(at), self._at_once)
        return torch.cat([self.see(batch.pixels[part]) for part in parts])

    def _texts(self, batch: Batch, at: Ints) -> Tensor:
        return self.read([batch.captions[i] for i in at])


def _frozen(clip: LoadedClip, device: torch.device, dtype: torch.dtype) -> FrozenEncoder:
    """Return a model's towers; in another precision than its own they are a copy."""
    clip.model.requires_grad_(False)
    if dtype != torch.float32:
        clip = replace(clip, model=deepcopy(clip.model))
    return FrozenEncoder(clip).to(device, dtype).eval().requires_grad_(False)


def _tokens(clip: LoadedClip) -> str:
    """Return a hash of what the tokenizer makes of some texts."""
    return hashlib.sha256(clip.tokenizer(list(PROBE)).numpy().tobytes()).hexdigest()
