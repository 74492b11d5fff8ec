"""Where work on shards runs: in this process, in several, or on the machines of a Dask cluster."""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from tinyclip_edge.child import child_command, child_environment
from tinyclip_edge.collection.shard_units import Unit
from tinyclip_edge.errors import ConfigError, TinyClipError, missing_extra

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 10.0
AHEAD = 2  # units submitted at a time for each thread of a cluster


Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class ClusterTask(Protocol[Result_co]):
    """Work on a unit; it can be sent to other machines."""

    def run(self, unit: Unit) -> Result_co:
        """Work on a unit without reporting progress; raise TinyClipError."""


class UnitTask(ClusterTask[Result_co], Protocol[Result_co]):
    """A task that reports its progress within a unit; its results are not integers."""

    def steps(self, unit: Unit) -> Generator[int, None, Result_co]:
        """Work on a unit, yield the number of pictures of each step; raise TinyClipError."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """The result of a unit, or its error."""

    unit: Unit
    result: Result | None
    error: TinyClipError | None = None


class Step(NamedTuple):
    """Progress within a unit."""

    unit: Unit
    pictures: int  # since the last step


Event: TypeAlias = "Step | Outcome[Result]"


def embed_here(task: UnitTask[Result], units: Iterable[Unit]) -> Iterator[Event[Result]]:
    """Work on units one after the other in this process."""
    for unit in units:
        steps = task.steps(unit)
        try:
            while True:
                yield Step(unit, next(steps))
        except StopIteration as end:
            yield Outcome(unit, end.value)
        except TinyClipError as error:
            yield Outcome(unit, None, error)
        finally:
            steps.close()  # removes a half-written file


def embed_in_processes(
    task: UnitTask[Result], units: Sequence[Unit], workers: int
) -> Iterator[Event[Result]]:
    """Work on units in processes of this machine, which end when the iterator is closed."""
    waiting: queue.SimpleQueue[Unit] = queue.SimpleQueue()
    for unit in units:
        waiting.put(unit)
    events: queue.SimpleQueue[Event[Result] | BaseException] = queue.SimpleQueue()
    processes = [_Worker(task) for _ in range(min(workers, len(units)))]

    def work(process: _Worker[Result]) -> None:
        try:
            while True:
                for event in process.embed(waiting.get_nowait()):
                    events.put(event)
        except queue.Empty:
            return
        except BaseException as error:  # raised again by the reader of the events
            events.put(error)

    threads = [threading.Thread(target=work, args=(each,), daemon=True) for each in processes]
    try:
        for thread in threads:
            thread.start()
        ended = 0
        while ended < len(units):
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            ended += isinstance(event, Outcome)
            yield event
    finally:
        with suppress(queue.Empty):
            while True:
                waiting.get_nowait()
        for process in processes:
            process.end()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


class _Worker(Generic[Result]):
    """A process that works on one unit at a time; if it is killed, a new one is started."""

    def __init__(self, task: UnitTask[Result]) -> None:
        self._task = task
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._ended = False

    def embed(self, unit: Unit) -> Iterator[Event[Result]]:
        try:
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            pickle.dump(unit, process.stdin)
            process.stdin.flush()
            while True:
                # Safe to unpickle: from our own process, over its own pipe.
                message: int | Result | TinyClipError = pickle.load(process.stdout)
                if isinstance(message, int):
                    yield Step(unit, message)
                elif isinstance(message, TinyClipError):
                    yield Outcome(unit, None, message)
                    return
                else:
                    yield Outcome(unit, message)
                    return
        except (OSError, EOFError, pickle.UnpicklingError):
            yield Outcome(unit, None, self._killed())

    def end(self) -> None:
        """End the process, and do not start another."""
        with self._lock:
            self._ended = True
            process = self._process
        if process is not None:
            process.terminate()
            _closed(process)

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._process is None and not self._ended:
                self._process = subprocess.Popen(
                    child_command("tinyclip_edge.collection.embed_worker"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=child_environment(),
                    start_new_session=True,  # Ctrl-C reaches this process, which ends it
                )
                assert self._process.stdin is not None
                pickle.dump(self._task, self._process.stdin)
            if self._process is None:
                raise EOFError
            return self._process

    def _killed(self) -> TinyClipError:
        process, self._process = self._process, None
        code = None if process is None else _closed(process)
        return TinyClipError(
            f"a process ended with code {code} while it read a shard; if memory ran out, use "
            "fewer --workers"
        )


def _closed(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a process, and return its exit code."""
    code = process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError, ValueError):  # unwritten data; another thread is reading
            assert pipe is not None
            pipe.close()
    return code


def embed_on_cluster(
    task: ClusterTask[Result], units: Sequence[Unit], address: str
) -> Iterator[Outcome[Result]]:
    """Work on units on the machines of a Dask cluster, which must share this one's folders."""
    with _client(address) as client:
        from distributed import as_completed

        todo = iter(units)
        unit_of: dict[Any, Unit] = {}
        ended = as_completed(loop=client.loop)

        def submit() -> None:
            if (unit := next(todo, None)) is not None:
                future = client.submit(task.run, unit, pure=False)
                unit_of[future] = unit
                ended.add(future)

        threads = sum(client.nthreads().values())
        for _ in range(AHEAD * max(1, threads)):
            submit()
        try:
            for future in ended:
                yield _outcome(unit_of.pop(future), future)
                submit()
        finally:
            client.cancel(list(unit_of))


def _outcome(unit: Unit, future: Any) -> Outcome[Any]:  # noqa: ANN401 - a distributed.Future
    error = future.exception()
    if error is None:
        return Outcome(unit, future.result())
    if not isinstance(error, TinyClipError):
        error = TinyClipError(f"it failed on the cluster with {error!r}")
    return Outcome(unit, None, error)


@contextmanager
def _client(address: str) -> Iterator[Client]:
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise missing_extra("a cluster needs", "distributed", "embed") from None
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"no Dask cluster answers at {address}; give the address that its scheduler prints, "
            f"such as tcp://10.0.0.1:8786 ({type(error).__name__})"
        ) from error
    try:
        if not client.nthreads():
            raise ConfigError(f"the Dask cluster at {address} has no workers")
        yield client
    finally:
        client.close()


def default_threads(workers: int) -> int | None:
    """Return the CPU threads per process; None, onnxruntime's choice, for a single process."""
    return None if workers == 1 else max(1, (os.cpu_count() or 1) // workers)
