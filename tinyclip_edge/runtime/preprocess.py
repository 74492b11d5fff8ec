"""Image to model input: open_clip's evaluation transform in Pillow and numpy, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from tinyclip_edge.errors import DataError, ModelError, did_you_mean
from tinyclip_edge.runtime.decode_modes import EXACT, decode_mode
from tinyclip_edge.runtime.image_limits import MAX_PIXELS
from tinyclip_edge.runtime.images import open_image
from tinyclip_edge.runtime.protocol import Features, ImageInput

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_INPUT = 4096 * 4096  # pixels of a model's input
RESIZE_MODES = ("shortest", "longest", "squash")
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_HF_FILTERS = {
    2: "bilinear",
    3: "bicubic",
}  # Pillow's numbers, as preprocessor_config.json has them


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Resize, crop and normalise one image; called, it returns float32 ``[3, H, W]``."""

    height: int
    width: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0
    as_stored: bool = False  # see open_image: open_clip's own transform of an opened file
    decode: str = EXACT  # of DECODE_MODES

    def __post_init__(self) -> None:
        decode_mode(self.decode)
        if min(self.height, self.width) < 1 or self.height * self.width > MAX_INPUT:
            raise ModelError(
                f"preprocessing: size {self.height}x{self.width} is not a valid image size"
            )
        for key, value, choices in (
            ("interpolation", self.interpolation, list(_FILTERS)),
            ("resize_mode", self.resize_mode, list(RESIZE_MODES)),
        ):
            if value not in choices:
                raise ModelError(
                    f"preprocessing: {key} {value!r}{did_you_mean(str(value), choices)}"
                )
        three = len(self.mean) == len(self.std) == 3
        # A pixel must stay a finite float32.
        largest, smallest = 1e6, 1e-6
        in_range = all(abs(value) <= largest for value in (*self.mean, *self.std))
        if not three or not in_range or min(map(abs, self.std)) < smallest:
            raise ModelError("preprocessing: mean and std need three numbers, none of std zero")
        if not 0 <= self.fill_color <= 255:
            raise ModelError(f"preprocessing: fill_color {self.fill_color} is not 0 to 255")

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, as_stored: bool = False, decode: str = EXACT
    ) -> Preprocess:
        """Read open_clip's ``preprocess_cfg`` or a Hugging Face ``preprocessor_config.json``.

        Raises ModelError for values that are not supported.
        """
        if not isinstance(config, Mapping):
            raise ModelError(f"preprocessing: {_short(config)} is not a table of settings")
        try:
            fields = _hugging_face(config) if "image_mean" in config else _open_clip(config)
            return cls(**fields, as_stored=as_stored, decode=decode)
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(
                f"preprocessing: cannot read {_short(config)}: {_short(error)}"
            ) from error

    def pixels(self, image: ImageInput, label: str = "image") -> npt.NDArray[np.uint8]:
        """Return uint8 ``[H, W, 3]``, resized and cropped; raise DataError for a bad image."""
        least = None if self.decode == EXACT else self._least
        decoded = open_image(image, label, as_stored=self.as_stored, least=least)
        try:
            # With as_stored, an image is resized in its own mode, then made RGB, as in open_clip.
            fitted = self._fit(decoded, label).convert("RGB")
        except ValueError as error:
            raise DataError(f"{label}: mode {decoded.mode} cannot be resized: {error}") from error
        return np.asarray(fitted, dtype=np.uint8)

    def __call__(self, image: ImageInput, label: str = "image") -> Features:
        """Return float32 ``[3, H, W]``; raise DataError for a bad image."""
        levels = np.arange(256, dtype=np.float32) / np.float32(255)
        pixels = self.pixels(image, label)
        out = np.empty((3, self.height, self.width), dtype=np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            table = (levels - np.float32(mean)) / np.float32(std)
            np.take(table, pixels[:, :, channel], out=out[channel])
        return out

    def batch(self, images: Sequence[ImageInput], first: int = 0) -> Features:
        """Return float32 ``[N, 3, H, W]``; messages count images from ``first``."""
        rows = [self(image, f"image {first + i}") for i, image in enumerate(images)]
        return np.stack(rows) if rows else np.empty((0, 3, self.height, self.width), np.float32)

    def _fit(self, image: Image.Image, label: str) -> Image.Image:
        width, height = self._resized(image.width, image.height)
        if width * height > MAX_PIXELS:
            raise DataError(f"{label} is too long and thin: {image.width}x{image.height} pixels")
        # open_clip 3.3 ignores the interpolation here; trained models expect that.
        oblong = self.resize_mode == "shortest" and self.width != self.height
        image = image.resize(
            (width, height),
            _FILTERS["bicubic" if oblong else self.interpolation],
            reducing_gap=decode_mode(self.decode).averaged,
        )
        return _centre(image, self.width, self.height, self.fill_color)

    def _least(self, width: int, height: int) -> tuple[float, float]:
        """Return the least size at which a picture of this size is decoded."""
        factor = decode_mode(self.decode).decoded or 1.0
        width, height = self._resized(width, height)
        return factor * width, factor * height

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.resize_mode == "squash":
            return self.width, self.height
        if self.resize_mode == "shortest" and self.width == self.height:
            long = int(self.width * max(width, height) / min(width, height))
            return (self.width, long) if width <= height else (long, self.width)
        ratios = (height / self.height, width / self.width)
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))


def _centre(image: Image.Image, width: int, height: int, fill: int) -> Image.Image:
    missing_x, missing_y = max(width - image.width, 0), max(height - image.height, 0)
    if missing_x or missing_y:
        border = (missing_x // 2, missing_y // 2, (missing_x + 1) // 2, (missing_y + 1) // 2)
        bands = len(image.getbands())
        image = ImageOps.expand(image, border, fill if bands == 1 else (fill,) * bands)
    # Python rounds halves to even, and so does open_clip's crop.
    x, y = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    return image.crop((x, y, x + width, y + height))


def _open_clip(config: Mapping[str, Any]) -> dict[str, Any]:
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    interpolation = config.get("interpolation") or "bicubic"
    return {
        "height": int(height),
        "width": int(width),
        "mean": _three(config.get("mean") or CLIP_MEAN),
        "std": _three(config.get("std") or CLIP_STD),
        # "random" is for training; evaluation then uses bicubic.
        "interpolation": "bicubic" if interpolation == "random" else interpolation,
        "resize_mode": config.get("resize_mode") or "shortest",
        "fill_color": int(config.get("fill_color") or 0),
    }


def _hugging_face(config: Mapping[str, Any]) -> dict[str, Any]:
    size = config["size"]
    mode = "shortest" if isinstance(size, int) or "shortest_edge" in size else "squash"
    target = config["crop_size"] if config.get("do_center_crop", True) else size
    if isinstance(target, int):
        target = {"height": target, "width": target}
    edge = target.get("shortest_edge")
    return {
        "height": int(edge or target["height"]),
        "width": int(edge or target["width"]),
        "mean": _three(config["image_mean"]),
        "std": _three(config["image_std"]),
        "interpolation": _HF_FILTERS.get(config.get("resample", 3), str(config.get("resample"))),
        # "longest" has no Hugging Face form; our own bundles have this extra key.
        "resize_mode": config.get("resize_mode") or mode,
        "fill_color": int(config.get("fill_color") or 0),
    }


def _three(values: float | Sequence[float]) -> tuple[float, float, float]:
    if isinstance(values, (int, float)):
        values = (values,) * 3
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _short(value: object) -> str:
    return repr(value)[:200]
