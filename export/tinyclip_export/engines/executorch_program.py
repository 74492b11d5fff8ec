"""ExecuTorch's .pte programs, whose products XNNPACK computes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tinyclip_edge.runtime.protocol import Features
from tinyclip_export.engines.writer import Encode, EngineTower


class ExecuTorch:
    """One method, ``forward``, with the tower's input and output."""

    def version(self) -> str:
        """Return ExecuTorch's version."""
        return version("executorch")

    def write(self, tower: EngineTower, targets: Mapping[str, Path]) -> None:
        """Lower the tower to XNNPACK; what XNNPACK lacks runs in ExecuTorch's portable kernels."""
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        program = torch.export.export(tower.module, (tower.example,))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        content = lowered.to_executorch().buffer
        for path in targets.values():
            path.write_bytes(content)

    def open(self, path: Path, threads: int) -> Encode:
        """Load the program; it uses the process's pool of threads, whatever ``threads`` is."""
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(path)
        method: Any = program.load_method("forward")

        def encode(batch: npt.NDArray[Any], _program: Any = program) -> Features:  # noqa: ANN401
            outputs = method.execute([torch.from_numpy(np.ascontiguousarray(batch))])
            features: Features = outputs[0].numpy().copy()
            return features

        return encode
