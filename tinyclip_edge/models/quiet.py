"""Keep libraries from printing to the user's terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Silence logging and warnings inside the block; exceptions still pass."""
    root = logging.getLogger()
    # logging.info() on a root without handlers would install one for good.
    guard = logging.NullHandler()
    root.addHandler(guard)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(guard)
