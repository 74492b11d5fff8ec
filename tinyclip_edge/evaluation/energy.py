"""Energy used by the processor, from the RAPL counters that Linux exposes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
_CLOCK_S = 1.0  # duration of a measurement; the counters are updated every millisecond


class EnergyMeter:
    """The counters of the processor's packages, in microjoules; each restarts at a limit."""

    def __init__(self, root: Path = POWERCAP) -> None:
        """Find the counters of whole packages that this user may read."""
        zones = sorted(root.glob("intel-rapl:*")) if root.is_dir() else []
        self._limits: dict[Path, int] = {}
        for zone in zones:
            try:
                # Cores and memory are parts of a package, and would be counted twice.
                if not (zone / "name").read_text(encoding="ascii").startswith("package-"):
                    continue
                counter = zone / "energy_uj"
                _number(counter)
                self._limits[counter] = _number(zone / "max_energy_range_uj")
            except (OSError, ValueError):  # since Linux 5.10, only root may read them
                continue

    @property
    def is_readable(self) -> bool:
        """Whether there is a counter that can be read."""
        return bool(self._limits)

    def read(self) -> dict[Path, int]:
        """Return microjoules of each counter."""
        return {counter: _number(counter) for counter in self._limits}

    def since(self, before: dict[Path, int]) -> int:
        """Return the microjoules all packages used since ``before``; a counter may wrap once."""
        now = self.read()
        total = 0
        for counter, limit in self._limits.items():
            used = now[counter] - before[counter]
            total += used if used >= 0 else used + limit
        return total

    def millijoules(self, call: Callable[[], object], seconds: float = _CLOCK_S) -> float:
        """Return the mean millijoules of a call, repeated for some seconds."""
        before, started, calls = self.read(), time.perf_counter(), 0
        while not calls or time.perf_counter() - started < seconds:
            call()
            calls += 1
        return self.since(before) / calls / 1000


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
