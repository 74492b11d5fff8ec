"""Networks on the meta device, whose tensors have shapes and no values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_INITIALISERS: frozenset[Callable[..., Any]] = frozenset(
    {
        *(Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.clamp_),
        *(torch.nn.init.normal_, torch.nn.init.uniform_, torch.nn.init.kaiming_uniform_),
    }
)


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Build modules on the meta device without drawing their initial values.

    torch would take a millisecond for each weight there, most of the time to build a network.
    """
    with torch.device("meta"), _Uninitialised():
        yield


class _Uninitialised(TorchFunctionMode):
    """Skips the initialisation of tensors on the meta device."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func in _INITIALISERS:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
