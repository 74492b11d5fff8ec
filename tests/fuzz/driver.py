"""Give a reader seeded inputs; note what it raises, how long it computes and what memory it takes.

A failing input is found again by its number: ``nth_input(reader, number)``.
"""

from __future__ import annotations

import random
import resource
import signal
import threading
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mutations import Mutation

from tinyclip_edge.errors import TinyClipError

SECONDS = 10.0  # of computing, at most, over one input
MEGABYTES = 500.0  # of memory, at most, over one input
SHOWN = 5  # failures in a message


@dataclass(frozen=True)
class Reader:
    """One way from a file into the program."""

    name: str
    valid: Callable[[Path], Sequence[bytes]]  # files it accepts, given an empty folder to build in
    mutation: Mutation
    read: Callable[[Path, bytes], object]  # given a folder of its own, which stays, and a content
    hostile: Sequence[bytes] = ()  # tried first
    others: tuple[type[Exception], ...] = ()  # that it may raise beside TinyClipError
    weight: float = 1.0  # share of the usual number of inputs; below 1 for slow ones
    most: int = 20_000  # inputs of a long run; fewer where one takes a second


@dataclass
class Tally:
    """What was seen of one reader."""

    inputs: int = 0
    refused: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0  # of the slowest input
    slowest: int = -1
    megabytes: float = 0.0  # of the largest input
    largest: int = -1

    def line(self, name: str) -> str:
        """Return a row of the table of all readers."""
        return (
            f"{name}: {self.inputs} inputs, {self.refused} refused, "
            f"{sum(self.failures.values())} failures, at most {self.seconds:.2f} s (input "
            f"{self.slowest}), {self.megabytes:.0f} MB (input {self.largest})"
        )

    def failed(self) -> str:
        """Return the commonest failures, empty when there are none."""
        return "\n".join(
            f"{times} x {what}\n{self.first[what]}"
            for what, times in self.failures.most_common(SHOWN)
        )


class TooSlow(BaseException):
    """An input was computed upon for longer than the limit."""


def nth_input(reader: Reader, valid: Sequence[bytes], number: int) -> bytes:
    """Return one of the inputs: hostile ones first, then valid files, then changed ones."""
    fixed = [*reader.hostile, *valid]
    if number < len(fixed):
        return fixed[number]
    rng = random.Random((zlib.crc32(reader.name.encode()) << 32) + number)
    return reader.mutation(rng, rng.choice(valid))


def drive(reader: Reader, folder: Path, numbers: range) -> Tally:
    """Read the inputs of these numbers; all of a valid file's must be read without an error."""
    tally = Tally()
    build, place = folder / "valid", folder / "changed"
    build.mkdir(parents=True)
    place.mkdir()
    valid = list(reader.valid(build))
    for content in valid:
        reader.read(place, content)
    for number in numbers:
        content = nth_input(reader, valid, number)
        before = _peak(reset=True)
        began = time.process_time()
        try:
            with _watched():
                reader.read(place, content)
        except reader.others:
            tally.refused += 1
        except TinyClipError as error:
            tally.refused += 1
            _note_message(tally, number, content, error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            _note(tally, number, content, error)
        seconds = time.process_time() - began
        megabytes = (_peak() - before) / 1e6
        tally.inputs += 1
        if seconds > tally.seconds:
            tally.seconds, tally.slowest = seconds, number
        if megabytes > tally.megabytes:
            tally.megabytes, tally.largest = megabytes, number
        if megabytes > MEGABYTES:
            _fail(tally, number, content, f"takes more than {MEGABYTES:.0f} MB")
    return tally


def _note_message(tally: Tally, number: int, content: bytes, error: TinyClipError) -> None:
    text = str(error)
    if not text or not text.isprintable() or len(text) > 2100:
        _fail(tally, number, content, f"{type(error).__name__} of no or many lines: {text[:80]!r}")


def _note(tally: Tally, number: int, content: bytes, error: BaseException) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "tinyclip" in f.filename] or frames
    at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
    _fail(tally, number, content, f"{type(error).__name__} at {at}", str(error)[:200])


def _fail(tally: Tally, number: int, content: bytes, what: str, more: str = "") -> None:
    tally.failures[what] += 1
    tally.first.setdefault(what, f"    {more}\n    input {number}: {content[:300]!r}")


@contextmanager
def _watched() -> Iterator[None]:
    """Raise TooSlow after SECONDS of computing, where signals can be had."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGPROF, _give_up)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _give_up(*_: object) -> None:
    raise TooSlow(f"more than {SECONDS:g} s")


def _peak(*, reset: bool = False) -> float:
    """Return the largest resident size in bytes since the last reset, where Linux tells."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
