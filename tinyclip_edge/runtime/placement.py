"""What ran where: the nodes of a graph, counted by execution provider."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyclip_edge.runtime.devices import CPU, CPU_PROVIDER, Device

_KERNEL = "_kernel_time"  # end of the name of a node's event in onnxruntime's profile
_COPIES = ("MemcpyToHost", "MemcpyFromHost")  # between devices; not nodes of the model


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the nodes of one tower ran.

    A provider that compiles the graph merges many nodes into one, which counts once.
    """

    device: str
    nodes: int  # on the device
    cpu_operators: Mapping[str, int] = field(default_factory=dict)  # operator -> nodes on the CPU

    @property
    def cpu_nodes(self) -> int:
        """Number of nodes that ran on the CPU although another device was requested."""
        return sum(self.cpu_operators.values())

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "device": self.device,
            "nodes": self.nodes,
            "cpu_nodes": self.cpu_nodes,
            "cpu_operators": dict(self.cpu_operators),
        }

    def __str__(self) -> str:
        line = f"{self.nodes:,} on {self.device}"
        if self.cpu_operators:
            listed = ", ".join(f"{name} {count}" for name, count in self.cpu_operators.items())
            line += f", {self.cpu_nodes:,} on {CPU} ({listed})"
        return line


class Recorder:
    """Lets onnxruntime profile a session's first run, and counts its nodes."""

    def __init__(self, device: Device, options: Any) -> None:  # noqa: ANN401
        self._device = device
        import tempfile  # slow to import, and not needed on the CPU

        # Also removed with this object, if the session never runs.
        self._folder = tempfile.TemporaryDirectory(
            prefix="tinyclip-edge-", ignore_cleanup_errors=True
        )
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(self._folder.name) / "profile")

    def placement(self, session: Any) -> Placement:  # noqa: ANN401
        """Stop the profile of a session that ran at least once, and count its nodes."""
        with self._folder:
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        nodes = {
            event["name"]: (event["args"]["provider"], event["args"]["op_name"])
            for event in events
            if event.get("cat") == "Node" and event["name"].endswith(_KERNEL)
        }
        operators = [entry for entry in nodes.values() if entry[1] not in _COPIES]
        on_cpu = Counter(operator for name, operator in operators if name == CPU_PROVIDER)
        return Placement(
            self._device.name, len(operators) - on_cpu.total(), dict(on_cpu.most_common())
        )
