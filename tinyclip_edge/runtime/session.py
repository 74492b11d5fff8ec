"""One ONNX tower in onnxruntime, with the options that hold on small and shared machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from tinyclip_edge.errors import BundleError, TinyClipError
from tinyclip_edge.runtime.cpu import int8_saturates
from tinyclip_edge.runtime.protocol import Features


def session_options(*, threads: int | None = None, precise_int8: bool = False) -> Any:  # noqa: ANN401
    """Return onnxruntime's SessionOptions; ``threads=None`` leaves the number to onnxruntime.

    ``precise_int8`` computes in u8 x u8, slower and without overflow. Raise TinyClipError for a
    thread count below one.
    """
    if threads is not None and threads < 1:
        raise TinyClipError(f"threads must be 1 or more, not {threads}")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads halve the speed of a machine whose cores are shared.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if precise_int8:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


class Tower:
    """An encoder file with one input and one output of embeddings."""

    def __init__(
        self,
        path: Path,
        *,
        names: tuple[str, str],
        threads: int | None = None,
        int8: bool = False,
        reduced_range: bool = False,
    ) -> None:
        """Open the file; raise BundleError when it does not load or has other inputs, outputs."""
        options = session_options(
            threads=threads, precise_int8=int8 and not reduced_range and int8_saturates()
        )
        self._path = path
        self._input, self._output = names
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        # onnxruntime's exceptions share no base class.
        except Exception as error:
            raise BundleError(f"{path} does not load in onnxruntime: {_line(error)}") from error
        inputs = [value.name for value in self._session.get_inputs()]
        outputs = [value.name for value in self._session.get_outputs()]
        if inputs != [self._input] or self._output not in outputs:
            raise BundleError(
                f"{path} must have input {self._input} and output {self._output}, "
                f"has {', '.join(inputs)} and {', '.join(outputs)}"
            )

    def __call__(self, batch: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> Features:
        """Return float32 ``[B, D]``, unit norm; raise BundleError when the graph fails."""
        try:
            output = self._session.run([self._output], {self._input: batch})[0]
        except Exception as error:
            raise BundleError(f"{self._path} failed on {batch.shape}: {_line(error)}") from error
        features = np.asarray(output, dtype=np.float32)
        norm = np.linalg.norm(features, axis=-1, keepdims=True)
        if not np.all(np.isfinite(norm)) or not np.all(norm > 0):
            raise BundleError(f"{self._path} returned embeddings that are not finite or are zero")
        unit: Features = features / norm
        return unit


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
