"""EdgeCLIP: a bundle folder as an image and text encoder, classifier and search, without torch."""

from __future__ import annotations

import logging
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyclip_edge.errors import BundleError, TinyClipWarning, did_you_mean
from tinyclip_edge.paths import expanded, model_name
from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.bundle_towers import BundleTowers, OpenOptions
from tinyclip_edge.runtime.confidence import Confidence, Threshold, decision
from tinyclip_edge.runtime.decode_modes import EXACT, decode_mode
from tinyclip_edge.runtime.devices import AUTO, CPU, Device
from tinyclip_edge.runtime.familiarity import Classification, Familiarity, classification
from tinyclip_edge.runtime.fit import misfit
from tinyclip_edge.runtime.inputs import image_list, label_list, text_list
from tinyclip_edge.runtime.picture_search import PictureSearch
from tinyclip_edge.runtime.prompts import check_prompts, class_features
from tinyclip_edge.runtime.protocol import EmbedderSpec, Features, ImageInput
from tinyclip_edge.runtime.session import ON_CPU

if TYPE_CHECKING:
    # Imported on demand: an application that only encodes a text starts faster without them.
    from tinyclip_edge.runtime.indexing import PictureEncoder
    from tinyclip_edge.runtime.placement import Placement
    from tinyclip_edge.runtime.preprocess import Preprocess

_log = logging.getLogger(__name__)

IMAGE_BATCH = 32
TEXT_BATCH = 64


class EdgeCLIP(PictureSearch):
    """Image and text encoder of a bundle; make one with ``EdgeCLIP.load``. Threads may share it."""

    def __init__(self, folder: Path, manifest: Manifest, options: OpenOptions) -> None:
        """Raise BundleError for a missing file, or a precision that the bundle does not have."""
        self.folder = folder
        self.manifest = manifest
        self.precision = options.precision
        self.threads = options.threads
        self.low_memory = options.low_memory
        self.as_stored = options.as_stored
        self._decode = options.decode
        self.device = options.device
        self._options = options
        self._parts = BundleTowers(folder, manifest, options)
        self._classes: tuple[tuple[tuple[str, ...], tuple[str, ...]], Features] | None = None

    @classmethod
    def load(  # noqa: PLR0913 - a public call with keyword options
        cls,
        folder: str | Path,
        *,
        precision: str | None = None,
        threads: int | None = None,
        verify: bool = True,
        low_memory: bool = False,
        as_stored: bool = False,
        decode: str = EXACT,
        device: str = CPU,
        device_options: Mapping[str, str] | None = None,
    ) -> EdgeCLIP:
        """Open a bundle; towers load, and their hashes are checked, on first use.

        ``precision``: one of the bundle's, its default (on a GPU fp16 or fp32) if None.
        ``threads``: per tower, chosen by onnxruntime if None. ``verify=False`` skips the hashes.
        ``low_memory``: one thread, one input at a time, memory released after each.
        ``as_stored``: pictures as open_clip's transform opens them, without EXIF rotation or a
        white background (see ``open_image``).
        ``decode``: a key of ``DECODE_MODES``. "exact" is open_clip's transform bit for bit; "fast"
        decodes large pictures at a fraction of their size.
        ``device``: a key of ``PROVIDERS``, or "auto" for the fastest here, with options of its
        provider. Unless ``verify`` is False, a device other than the CPU must reproduce the
        bundle's recorded embeddings; ``placement`` says which nodes run on it.
        Raise BundleError for anything missing or in another format, DeviceError for a device that
        is not available or computes other embeddings. Warn of a bundle made for another target.
        """
        decode_mode(decode)
        folder = Path(expanded(folder))
        manifest = Manifest.read(folder)

        def opened(chosen: Device) -> EdgeCLIP:
            names = manifest.precisions()
            name = precision or _default_precision(manifest, chosen)
            if name not in names:
                raise BundleError(
                    f"bundle {folder} has no precision {name!r}{did_you_mean(name, names)}"
                )
            options = OpenOptions(
                precision=name,
                threads=threads,
                verify=verify,
                low_memory=low_memory,
                as_stored=as_stored,
                decode=decode,
                device=chosen,
            )
            if (note := misfit(manifest, chosen)) is not None:
                warnings.warn(note, TinyClipWarning, stacklevel=3)
            _log.info("bundle %s: precision %s of %s", folder, name, ", ".join(names))
            return cls(folder, manifest, options)

        if device == CPU and not device_options:
            return opened(ON_CPU)
        from tinyclip_edge.runtime.proof import prove, quickest

        if device == AUTO:
            return quickest(opened)
        clip = opened(Device(device, device_options or {}))
        clip._parts.open()
        if verify:
            prove(clip, device)
        return clip

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the folder and options only: each worker opens its own towers."""
        load = partial(EdgeCLIP.load, self.folder.absolute(), **self._options.as_arguments())
        return load, ()

    @property
    def name(self) -> str:
        """The bundle's name: that of its folder."""
        return model_name(self.folder)

    @property
    def logit_scale(self) -> float:
        """Factor on cosine similarities before softmax."""
        return float(self.manifest.logit_scale)

    @property
    def context_length(self) -> int:
        """Number of tokens to which a text is truncated, including start and end."""
        return self.manifest.context_length

    @property
    def decode(self) -> str:
        """How pictures are decoded: a key of ``DECODE_MODES``."""
        return self._decode

    def decoding(self, mode: str) -> EdgeCLIP:
        """Return the same model with another decode mode; ConfigError for an unknown one."""
        decode_mode(mode)
        if mode == self.decode:
            return self
        clip = object.__new__(type(self))
        clip.__dict__.update(self.__dict__)
        clip._options = replace(self._options, decode=mode)
        clip._decode, clip._parts = mode, self._parts.decoding(mode)
        return clip

    @property
    def model_hash(self) -> str:
        """Identifier of weights and precision, which an index of this model stores."""
        return f"{self.manifest.model_hash}-{self.precision}"

    @property
    def spec(self) -> EmbedderSpec:
        """Sizes, runtime and precision; bytes are those of the files of this precision."""
        parameters = self.manifest.parameters
        return EmbedderSpec(
            image_size=self.manifest.image_size,
            embedding_dim=self.manifest.embedding_dim,
            encoder_parameters=parameters["image"] + parameters["text"],
            token_parameters=parameters["token_embedding"],
            bytes_on_disk=sum((self.folder / f).stat().st_size for f in self.needed_files()),
            runtime="onnxruntime",
            precision=self.precision,
        )

    def needed_files(self) -> list[str]:
        """Return the relative paths this precision needs: two towers and two settings files."""
        return self._parts.files()

    @property
    def placement(self) -> Mapping[str, Placement]:
        """Where the nodes of each tower ran; empty on the CPU, and before a tower's first run."""
        return self._parts.placement

    @property
    def preprocess(self) -> Preprocess:
        """The image tower's preprocessing, so that callers can time it separately."""
        return self._parts.image_side()[0]

    def token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text as the text tower receives them."""
        return self._parts.padded(self._parts.text_side()[0].encode(text))

    def fits_context(self, text: str) -> bool:
        """Whether the text fits the context without truncation."""
        return self._parts.text_side()[0].fits(text)

    def encode_image(self, images: Iterable[ImageInput]) -> Features:
        """Return float32 ``[N, D]``, unit norm; raise DataError for a broken image."""
        images = image_list(images, "encode_image")
        preprocess, tower = self._parts.image_side()
        step = self._parts.batch(IMAGE_BATCH)
        rows = [
            tower(preprocess.batch(images[start : start + step], first=start))
            for start in range(0, len(images), step)
        ]
        return self._parts.stacked(rows)

    def encode_text(self, texts: Iterable[str]) -> Features:
        """Return float32 ``[N, D]``, unit norm.

        Texts of equal length share a batch. None is padded unless the tower requires it, because
        padding changes the results of dynamic int8.
        """
        return self.encode_tokens([self.token_ids(t) for t in text_list(texts, "encode_text")])

    def encode_tokens(self, tokens: Sequence[Sequence[int]]) -> Features:
        """Return float32 ``[N, D]``, unit norm, of texts as ``token_ids`` returns them."""
        tower = self._parts.text_side()[1]
        by_length: dict[int, list[int]] = defaultdict(list)
        for position, ids in enumerate(tokens):
            by_length[len(ids)].append(position)
        features = np.empty((len(tokens), self.manifest.embedding_dim), dtype=np.float32)
        for positions in by_length.values():
            step = self._parts.batch(TEXT_BATCH)
            for start in range(0, len(positions), step):
                part = positions[start : start + step]
                batch = np.array([tokens[position] for position in part], dtype=np.int64)
                features[part] = self._parts.stacked([tower(batch)])
        return features

    def classify(
        self,
        image: ImageInput,
        labels: Iterable[str],
        templates: Iterable[str] = ("{}",),
        *,
        threshold: Threshold = None,
    ) -> Classification:
        """Return (label, probability), best first; ``familiar`` is False for an unfamiliar picture.

        ``threshold``: ``unknown`` is True if the best probability is lower; "calibrated" takes the
        bundle's own threshold, with probabilities at its temperature. Warn of prompts longer than
        the model's context. Raise DataError for no labels, for two with the same tokens, or for
        labels other than the calibrated ones.
        """
        # Results are sorted by probability, so a set's order does not matter.
        labels = label_list(sorted(labels, key=str) if isinstance(labels, Set) else labels)
        templates = label_list(templates, "templates")
        decided = decision(self.confidence, labels, templates, threshold)
        classes = self._class_features(labels, templates)
        preprocess, tower = self._parts.image_side()
        pixels = preprocess.batch(image_list([image], "classify"))
        features = self._parts.stacked([tower(pixels)])
        return classification(self, labels, classes, features, pixels, decided)

    @cached_property
    def confidence(self) -> Confidence | None:
        """The calibrated threshold and temperature, with their labels; None if not stored."""
        return Confidence.of(self.manifest, self.precision)

    @cached_property
    def familiarity(self) -> Familiarity | None:
        """What distinguishes pictures like the training's from others; None if not stored."""
        return Familiarity.of(self.manifest, self.precision)

    def picture_encoder(self) -> PictureEncoder:
        """Return the parts of the image tower, for callers that decode ahead of it."""
        from tinyclip_edge.runtime.decoding import decoding_threads
        from tinyclip_edge.runtime.indexing import PictureEncoder

        preprocess, tower = self._parts.image_side()
        return PictureEncoder(
            preprocess,
            lambda pixels: self._parts.stacked([tower(pixels)]),
            batch=self._parts.batch(IMAGE_BATCH),
            width=self.manifest.embedding_dim,
            threads=0 if self.low_memory else decoding_threads(),
        )

    def _class_features(self, labels: tuple[str, ...], templates: tuple[str, ...]) -> Features:
        key = (labels, templates)
        cached = self._classes
        if cached is None or cached[0] != key:
            for note in check_prompts(self, labels, templates):
                warnings.warn(note, stacklevel=3)
            cached = (key, class_features(self, labels, templates))
            self._classes = cached
        return cached[1]


def _default_precision(manifest: Manifest, device: Device) -> str:
    present = manifest.precisions()
    preferred = (name for name in device.provider.precisions if name in present)
    return next(preferred, manifest.default_precision)
