"""Failed checks of a verification, one error class each."""

from __future__ import annotations

from collections.abc import Sequence

from tinyclip_edge.errors import VerificationError


class NamesError(VerificationError):
    """The inputs or outputs of a tower differ from the bundle layout."""


class AxesError(VerificationError):
    """The batch or sequence axis is static, or another axis is dynamic."""


class ShapesError(VerificationError):
    """A tower fails on some batch size or length, or has an output of another shape."""


class ValuesError(VerificationError):
    """Embeddings differ too much from PyTorch's."""


class RankingError(VerificationError):
    """The exported model retrieves different images from PyTorch's."""


class StructureError(VerificationError):
    """A file has operators, types or shapes that the engine of its target does not support."""


class TooFewPairsError(VerificationError):
    """A single pair counts more than the allowed drop, so the gate cannot decide."""


class ReloadError(VerificationError):
    """The finished bundle does not open, or gives different embeddings, in a fresh process."""


class LatencyError(VerificationError):
    """A precision is slower than fp32 on this machine."""


class GatesFailedError(VerificationError):
    """One or more checks failed; `failures` has the error of each."""

    def __init__(self, failures: Sequence[VerificationError]) -> None:
        self.failures = tuple(failures)
        messages = "; ".join(str(failure) for failure in self.failures)
        super().__init__(f"export refused, nothing written: {messages}")
