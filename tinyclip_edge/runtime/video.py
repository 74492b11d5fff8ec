"""Frames of videos, read with PyAV: upright, of bounded size and number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL import Image

from tinyclip_edge.errors import DataError, TinyClipError, missing_extra
from tinyclip_edge.paths import exists, is_file
from tinyclip_edge.runtime.image_limits import MAX_PIXELS
from tinyclip_edge.runtime.images import open_image
from tinyclip_edge.runtime.video_keys import CONTAINERS, split_key

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

Frames: TypeAlias = "Iterator[tuple[float, av.VideoFrame]]"  # with their times in seconds

MOST_FRAMES = 10_000  # of a video
SEEK_FROM = 5.0  # seconds between frames, from which seeking skips those in between
_TOLERANCE = 1e-3  # seconds


def can_read_videos() -> bool:
    """Whether PyAV is installed."""
    return find_spec("av") is not None


def open_picture(key: str, edge: int) -> Image.Image:
    """Return the picture of an index's key, upright RGB: a file's, or a frame of a video.

    ``edge``: pixels that suffice for its shorter side, to read large pictures faster.
    Raise DataError when it is gone or broken, MissingExtraError for a frame without PyAV.
    """
    path, seconds = split_key(key)
    if seconds is not None:
        return frame_at(path, seconds)
    return open_image(path, least=lambda width, height: (edge, edge))


def frame_at(path: str, seconds: float) -> Image.Image:
    """Return the first frame at a time or after it; raise DataError if there is none."""
    with _opened(path) as video:
        if seconds > 0:
            video.seek(seconds)
        for time, frame in video.frames():
            if time + _TOLERANCE >= seconds:
                return _upright(frame)
    raise DataError(f"{path} has no frame at {seconds:g} s")


def video_frames(path: str, every: float) -> Iterator[tuple[float, Image.Image]]:
    """Yield seconds and picture at 0, ``every``, 2 ``every`` …: the first frame from that time on.

    Raise DataError for a file that is not a video, has too many pixels, is damaged, or has more
    than MOST_FRAMES such frames.
    """
    with _opened(path) as video:
        number, seeks = 0, every >= SEEK_FROM
        position = -math.inf
        frames = video.frames()
        while (found := _first_from(frames, number * every)) is not None:
            position, frame = found
            yield number * every, _upright(frame)
            number = max(number, math.floor((position + _TOLERANCE) / every)) + 1
            if number > MOST_FRAMES:
                raise DataError(
                    f"{path} has more than {MOST_FRAMES:,} frames at an interval of {every:g} s; "
                    "choose a larger one"
                )
            if seeks:
                frames, seeks = video.frames_from(number * every, position, frames)
        if number == 0:
            raise DataError(f"{path} has no frames")


def _first_from(frames: Frames, seconds: float) -> tuple[float, av.VideoFrame] | None:
    return next((pair for pair in frames if pair[0] + _TOLERANCE >= seconds), None)


class _Video:
    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        assert stream.time_base is not None
        self._base = float(stream.time_base)
        self._start = (stream.start_time or 0) * self._base

    def frames(self) -> Frames:
        """Yield the frames from the present position, with their times in seconds."""
        for frame in self._container.decode(self._stream):
            if frame.time is not None and frame.width * frame.height <= MAX_PIXELS:
                yield frame.time - self._start, frame

    def seek(self, seconds: float) -> None:
        """Go to the last key frame before a time."""
        self._container.seek(round((seconds + self._start) / self._base), stream=self._stream)

    def frames_from(self, seconds: float, position: float, frames: Frames) -> tuple[Frames, bool]:
        """Return the frames from the key frame before a time, and whether seeking skipped any.

        ``position``: time of the last decoded frame; ``frames`` are those after it.
        """
        import av

        try:
            self.seek(seconds)
        except av.FFmpegError:  # some containers have no index, or none beyond their end
            return frames, False
        frames = self.frames()
        first = next(frames, None)
        if first is None:
            return frames, False
        return chain([first], frames), first[0] > position


@contextmanager
def _opened(path: str) -> Iterator[_Video]:
    try:
        import av
    except ModuleNotFoundError:
        raise missing_extra(f"{path}: frames of videos need", "av", "video") from None
    if not is_file(Path(path)) and exists(Path(path)):  # opening a pipe would block
        raise DataError(f"{path} is not a file")
    container = CONTAINERS[Path(path).suffix[1:].lower()]
    try:
        # As an open file, so that its name is never read as an address.
        with (
            open(path, "rb") as file,  # noqa: PTH123
            av.open(file, format=container, **_lenient()) as opened,
        ):
            yield _Video(opened, _stream(opened, path))
    except FileNotFoundError as error:
        raise DataError(f"no such video: {path}") from error
    except av.FFmpegError as error:
        raise DataError(f"{path} cannot be decoded: {error.strerror or error}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except TinyClipError:
        raise
    # On broken bytes PyAV may raise any exception.
    except Exception as error:
        raise DataError(f"{path} cannot be decoded: {type(error).__name__}: {error}") from error


def _lenient() -> dict[str, Any]:
    """Return options that make PyAV tolerate metadata that is not UTF-8, as it does since 19."""
    import av

    return {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def _stream(container: InputContainer, path: str) -> VideoStream:
    """Return the video stream; raise DataError if it is missing, too large or unknown."""
    if not container.streams.video:
        raise DataError(f"{path} has no video stream")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise DataError(f"{path} has a video stream of an unknown kind")
    if not 0 < context.width * context.height <= MAX_PIXELS:
        raise DataError(
            f"{path} has {context.width}x{context.height} pixels; at most {MAX_PIXELS:,} are opened"
        )
    context.options = {"max_pixels": str(MAX_PIXELS)}
    stream.thread_type = "AUTO"
    return stream


def _upright(frame: av.VideoFrame) -> Image.Image:
    picture: Image.Image = frame.to_image()
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
