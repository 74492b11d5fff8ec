"""EdgeCLIP: a bundle folder as an image and text encoder, classifier and search, without torch."""

from __future__ import annotations

import logging
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyclip_edge.errors import BundleError, did_you_mean
from tinyclip_edge.json_text import read_json_table
from tinyclip_edge.paths import expanded, model_name
from tinyclip_edge.runtime.bundle import TOWERS, Manifest, bundle_file
from tinyclip_edge.runtime.bundle_tokenizer import open_tokenizer
from tinyclip_edge.runtime.inputs import image_list, label_list, text_list
from tinyclip_edge.runtime.manifest_keys import CONFIG_FILES
from tinyclip_edge.runtime.picture_search import PictureSearch
from tinyclip_edge.runtime.prompts import check_prompts, class_features, probabilities
from tinyclip_edge.runtime.protocol import EmbedderSpec, Features, ImageInput
from tinyclip_edge.runtime.session import Tower
from tinyclip_edge.runtime.tokenizer import ClipTokenizer

if TYPE_CHECKING:
    # Imported on demand: an application that only encodes a text starts faster without them.
    from tinyclip_edge.runtime.indexing import PictureEncoder
    from tinyclip_edge.runtime.plain_tokenizer import PlainTokenizer
    from tinyclip_edge.runtime.preprocess import Preprocess

_log = logging.getLogger(__name__)

IMAGE_BATCH = 32
TEXT_BATCH = 64
_NAMES = {"image": ("pixel_values", "image_embeds"), "text": ("input_ids", "text_embeds")}
_PREPROCESSOR, _TOKENIZER = CONFIG_FILES


class EdgeCLIP(PictureSearch):
    """Image and text encoder of a bundle; make one with ``EdgeCLIP.load``. Threads may share it."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        precision: str,
        threads: int | None = None,
        verify: bool = True,
        low_memory: bool = False,
        as_stored: bool = False,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.precision = precision
        self.threads = threads
        self.low_memory = low_memory
        self.as_stored = as_stored
        self._verify = verify
        self._lock = threading.RLock()
        self._towers: dict[str, Tower] = {}
        self._preprocess: Preprocess | None = None
        self._tokenizer: ClipTokenizer | PlainTokenizer | None = None
        self._classes: tuple[tuple[tuple[str, ...], tuple[str, ...]], Features] | None = None

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        precision: str | None = None,
        threads: int | None = None,
        verify: bool = True,
        low_memory: bool = False,
        as_stored: bool = False,
    ) -> EdgeCLIP:
        """Open a bundle; towers load, and their hashes are checked, on first use.

        ``precision``: one of the bundle's, its default if None. ``threads``: per tower, chosen by
        onnxruntime if None. ``verify=False`` skips the hashes. ``low_memory``: one thread, one
        input at a time, memory released after each. ``as_stored``: pictures as open_clip's
        transform opens them, without EXIF rotation or a white background (see ``open_image``).
        Raise BundleError for anything that is missing or of another format.
        """
        folder = Path(expanded(folder))
        manifest = Manifest.read(folder)
        precision = precision or manifest.default_precision
        if precision not in manifest.precisions():
            raise BundleError(
                f"bundle {folder} has no precision {precision!r}"
                f"{did_you_mean(precision, manifest.precisions())}"
            )
        clip = cls(
            folder,
            manifest,
            precision=precision,
            threads=threads,
            verify=verify,
            low_memory=low_memory,
            as_stored=as_stored,
        )
        for name in clip.needed_files():
            if not bundle_file(folder, name).is_file():
                raise BundleError(f"bundle {folder}: {name} is missing; copy it again")
        names = ", ".join(manifest.precisions())
        _log.info("bundle %s: precision %s of %s", folder, precision, names)
        return clip

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the folder and options only: each worker opens its own towers."""
        options: dict[str, Any] = {
            "precision": self.precision,
            "threads": self.threads,
            "verify": self._verify,
            "low_memory": self.low_memory,
            "as_stored": self.as_stored,
        }
        return partial(EdgeCLIP.load, self.folder.absolute(), **options), ()

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
        """Return the relative paths of this precision: both towers and two settings files."""
        towers = [self.manifest.tower_path(tower, self.precision) for tower in TOWERS]
        return [*towers, *CONFIG_FILES]

    @property
    def preprocess(self) -> Preprocess:
        """The image tower's preprocessing, so that it can be timed separately."""
        return self._image_side()[0]

    def token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text as the text tower receives them."""
        return self._padded(self._text_side()[0].encode(text))

    def fits_context(self, text: str) -> bool:
        """Whether the text fits the context without truncation."""
        return self._text_side()[0].fits(text)

    def encode_image(self, images: Iterable[ImageInput]) -> Features:
        """Return float32 ``[N, D]``, unit norm; raise DataError for a broken image."""
        images = image_list(images, "encode_image")
        preprocess, tower = self._image_side()
        step = self._step(IMAGE_BATCH)
        rows = [
            tower(preprocess.batch(images[start : start + step], first=start))
            for start in range(0, len(images), step)
        ]
        return self._stacked(rows)

    def encode_text(self, texts: Iterable[str]) -> Features:
        """Return float32 ``[N, D]``, unit norm.

        Texts of equal length share a batch and none is padded, as padding changes dynamic int8,
        unless the tower requires it.
        """
        return self.encode_tokens([self.token_ids(t) for t in text_list(texts, "encode_text")])

    def encode_tokens(self, tokens: Sequence[Sequence[int]]) -> Features:
        """Return float32 ``[N, D]``, unit norm, of texts as ``token_ids`` returns them."""
        tower = self._text_side()[1]
        by_length: dict[int, list[int]] = defaultdict(list)
        for position, ids in enumerate(tokens):
            by_length[len(ids)].append(position)
        features = np.empty((len(tokens), self.manifest.embedding_dim), dtype=np.float32)
        for positions in by_length.values():
            step = self._step(TEXT_BATCH)
            for start in range(0, len(positions), step):
                part = positions[start : start + step]
                batch = np.array([tokens[position] for position in part], dtype=np.int64)
                features[part] = self._stacked([tower(batch)])
        return features

    def classify(
        self, image: ImageInput, labels: Iterable[str], templates: Iterable[str] = ("{}",)
    ) -> list[tuple[str, float]]:
        """Return (label, probability), best first.

        Warn of prompts that are longer than the model's context. Raise DataError without a label,
        or for two labels with the same tokens.
        """
        # Results are sorted by probability, so that a set's order does not matter.
        labels = label_list(sorted(labels, key=str) if isinstance(labels, Set) else labels)
        classes = self._class_features(labels, label_list(templates, "templates"))
        logits = self.logit_scale * (classes @ self.encode_image([image])[0])
        chances = probabilities(logits, self.manifest.logit_bias)
        order = np.argsort(-chances, kind="stable")
        return [(labels[i], float(chances[i])) for i in order]

    def picture_encoder(self) -> PictureEncoder:
        """Return the parts of the image tower, for work that decodes ahead of it."""
        from tinyclip_edge.runtime.decoding import decoding_threads
        from tinyclip_edge.runtime.indexing import PictureEncoder

        preprocess, tower = self._image_side()
        return PictureEncoder(
            preprocess,
            lambda pixels: self._stacked([tower(pixels)]),
            batch=self._step(IMAGE_BATCH),
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

    def _image_side(self) -> tuple[Preprocess, Tower]:
        with self._lock:
            if self._preprocess is None:
                from tinyclip_edge.runtime.preprocess import Preprocess

                config = read_json_table(self._verified(_PREPROCESSOR), BundleError)
                self._preprocess = Preprocess.from_config(config, as_stored=self.as_stored)
            return self._preprocess, self._tower("image")

    def _text_side(self) -> tuple[ClipTokenizer | PlainTokenizer, Tower]:
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = open_tokenizer(self._verified(_TOKENIZER), self.manifest)
            return self._tokenizer, self._tower("text")

    def _tower(self, tower: str) -> Tower:
        if tower not in self._towers:
            path = self._verified(self.manifest.tower_path(tower, self.precision))
            self._towers[tower] = Tower(
                path,
                names=_NAMES[tower],
                threads=self.threads,
                precise_int8=self.manifest.saturates(tower, self.precision),
                batch=self.manifest.static_batch,
                low_memory=self.low_memory,
            )
        return self._towers[tower]

    def _verified(self, name: str) -> Path:
        if self._verify:
            self.manifest.verify_files(self.folder, only=[name])
        return bundle_file(self.folder, name)

    def _step(self, default: int) -> int:
        """Return the number of inputs of a tower's batch."""
        return self.manifest.static_batch or (1 if self.low_memory else default)

    def _padded(self, ids: list[int]) -> list[int]:
        pad = self.manifest.pad_id
        return ids if pad is None else ids + [pad] * (self.manifest.context_length - len(ids))

    def _stacked(self, rows: list[Features]) -> Features:
        width = self.manifest.embedding_dim
        stacked = np.concatenate(rows) if rows else np.empty((0, width), np.float32)
        if stacked.shape[1] != width:
            raise BundleError(
                f"bundle {self.folder}: embeddings have {stacked.shape[1]} dimensions, "
                f"the manifest says {width}"
            )
        return stacked
