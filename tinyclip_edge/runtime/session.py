"""One ONNX tower in onnxruntime, with options that suit small and shared machines."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from tinyclip_edge.errors import BundleError, DeviceError, TinyClipError, first_line
from tinyclip_edge.paths import refuse_pointer
from tinyclip_edge.runtime.cpu import int8_saturates
from tinyclip_edge.runtime.devices import Device
from tinyclip_edge.runtime.external_tensors import refuse_outside_files
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.units import duration

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from tinyclip_edge.runtime.placement import Placement, Recorder

MAX_THREADS = 1024  # onnxruntime itself has no limit

ON_CPU = Device()
ORT_SUFFIX = ".ort"
NEWER_FORMAT = "The ORT format model version"  # start of onnxruntime's message
# From 1.24 on, onnxruntime itself refuses tensors outside a model's folder.
READS_OUTSIDE_FILES = tuple(int(part) for part in ort.__version__.split(".")[:2]) < (1, 24)


def session_options(
    *, threads: int | None = None, precise_int8: bool = False, low_memory: bool = False
) -> Any:  # noqa: ANN401
    """Return onnxruntime's SessionOptions; ``threads=None`` leaves the number to onnxruntime.

    ``precise_int8`` computes in u8 x u8, slower and without overflow. ``low_memory`` releases
    memory after each run and uses one thread by default. Raise TinyClipError for an invalid
    thread count.
    """
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MAX_THREADS):
        raise TinyClipError(f"threads must be 1 to {MAX_THREADS:,}, not {threads}")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads or int(low_memory)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads halve the speed of a machine whose cores are shared.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if precise_int8:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if low_memory:
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        # Otherwise a second copy of the weights is made in the kernels' layout.
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def full_batch(batch: npt.NDArray[Any], size: int | None) -> npt.NDArray[Any]:
    """Repeat the last row of ``[B, ...]`` up to ``size`` rows; None leaves the batch unchanged."""
    missing = 0 if size is None else size - len(batch)
    return np.concatenate([batch, *[batch[-1:]] * missing]) if missing > 0 else batch


class OnnxSession:
    """An ONNX file in onnxruntime; its failures become BundleErrors that name the file."""

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        precise_int8: bool = False,
        low_memory: bool = False,
        device: Device = ON_CPU,
    ) -> None:
        """Open the file; raise BundleError if it does not load, DeviceError if the device fails.

        ``precise_int8`` is for files whose u8 x s8 products overflow on some processors, and is
        used only on those; an .ort file then raises BundleError.
        """
        precise_int8 = precise_int8 and int8_saturates()
        if precise_int8 and path.suffix == ORT_SUFFIX:
            raise BundleError(
                f"{path}: its 8-bit weights overflow on this processor, x86 without VNNI, and "
                "onnxruntime cannot switch an .ort file to its exact kernel; export it with "
                "weight_range: overflow_safe in the preset"
            )
        options = session_options(threads=threads, precise_int8=precise_int8, low_memory=low_memory)
        self.path = path
        self.placement: Placement | None = None  # of the first run, on another device than cpu
        self._lock = threading.Lock()
        self._recorder = None if device.is_cpu else _recorder(device, options)
        try:
            if READS_OUTSIDE_FILES and path.suffix != ORT_SUFFIX:  # an .ort holds all its tensors
                refuse_outside_files(path)
            self._session = device.open(path, options)
            # Names that are not UTF-8 raise here.
            self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
            self._inputs = [value.name for value in self._session.get_inputs()]
            self._types = {value.name: value.type for value in self._session.get_inputs()}
            self._outputs = [value.name for value in self._session.get_outputs()]
        except DeviceError:
            raise
        # onnxruntime's exceptions share no base class.
        except Exception as error:
            refuse_pointer(path, BundleError)
            if path.suffix == ORT_SUFFIX and NEWER_FORMAT in str(error):
                raise BundleError(
                    f"{path} was written by a newer onnxruntime than the installed "
                    f"{ort.__version__}; upgrade onnxruntime, or export the bundle with this one"
                ) from error
            on = "" if device.is_cpu else f" on {device.name}"
            raise BundleError(
                f"{path} does not load in onnxruntime {ort.__version__}{on}: {first_line(error)}"
            ) from error

    def require(self, inputs: list[str], output: str) -> None:
        """Raise BundleError unless the file has these inputs and this output."""
        if self._inputs != inputs or output not in self._outputs:
            raise BundleError(
                f"{self.path} must have input {', '.join(inputs)} and output {output}, "
                f"has {', '.join(self._inputs)} and {', '.join(self._outputs)}"
            )

    def run(self, output: str, **inputs: npt.NDArray[Any]) -> Features:
        """Return one output as float32 ``[B, N]``; raise BundleError when the graph fails.

        Token ids are cast to int32 for a file that takes int32.
        """
        inputs = {
            name: value.astype(np.int32) if self._types.get(name) == "tensor(int32)" else value
            for name, value in inputs.items()
        }
        try:
            values = np.asarray(self._session.run([output], inputs)[0], dtype=np.float32)
        except Exception as error:
            shapes = ", ".join(str(value.shape) for value in inputs.values())
            raise BundleError(f"{self.path} failed on {shapes}: {first_line(error)}") from error
        if values.ndim != 2:
            raise BundleError(f"{self.path}: {output} has shape {list(values.shape)}, not [B, N]")
        if self._recorder is not None:
            self._record()
        return values

    def _record(self) -> None:
        """Store where the nodes of a run ran; raise DeviceError if none ran on the device."""
        with self._lock:
            recorder, self._recorder = self._recorder, None
            if recorder is None:
                return
            self.placement = recorder.placement(self._session)
        if not self.placement.nodes:
            raise DeviceError(
                f"no node of {self.path} runs on {self.placement.device}: all "
                f"{self.placement.cpu_nodes:,} nodes ran on the CPU"
            )


class Tower:
    """An encoder file with one input and one output of embeddings."""

    def __init__(
        self,
        path: Path,
        *,
        names: tuple[str, str],
        threads: int | None = None,
        precise_int8: bool = False,
        batch: int | None = None,
        low_memory: bool = False,
        device: Device = ON_CPU,
    ) -> None:
        """Open the file; raise BundleError if it does not load or has other inputs or outputs.

        Each call is padded to a fixed ``batch``.
        """
        started = time.perf_counter()
        self._graph = OnnxSession(
            path,
            threads=threads,
            precise_int8=precise_int8,
            low_memory=low_memory,
            device=device,
        )
        took = duration(time.perf_counter() - started)
        _log.info("%s opened in %s, threads: %s", path, took, threads or "onnxruntime's choice")
        self._batch = batch
        self._input, self._output = names
        self._graph.require([self._input], self._output)

    @property
    def placement(self) -> Placement | None:
        """Where the nodes ran; None on the CPU, and before the first run."""
        return self._graph.placement

    def __call__(self, batch: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> Features:
        """Return float32 ``[B, D]``, unit norm; raise BundleError when the graph fails."""
        full = full_batch(batch, self._batch)
        features = self._graph.run(self._output, **{self._input: full})
        if len(features) != len(full):
            raise BundleError(
                f"{self._graph.path} returned {len(features):,} rows for {len(full):,} inputs"
            )
        features = features[: len(batch)]
        norm = np.linalg.norm(features, axis=-1, keepdims=True)
        if not np.all(np.isfinite(norm)) or not np.all(norm > 0):
            raise BundleError(
                f"{self._graph.path} returned embeddings that are not finite or are zero"
            )
        unit: Features = features / norm
        return unit


def _recorder(device: Device, options: Any) -> Recorder:  # noqa: ANN401
    from tinyclip_edge.runtime.placement import Recorder

    return Recorder(device, options)
