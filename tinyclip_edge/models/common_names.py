"""Names of common things, as open_clip lists ImageNet's classes."""

from __future__ import annotations

from collections.abc import Iterable


def common_names(count: int, without: Iterable[str] = ()) -> list[str]:
    """Return up to ``count`` of a thousand names, evenly spaced, none of them in ``without``."""
    from open_clip import IMAGENET_CLASSNAMES

    excluded = {name.casefold() for name in without}
    names = [name for name in IMAGENET_CLASSNAMES if name.casefold() not in excluded]
    return [names[i * len(names) // count] for i in range(count)] if len(names) > count else names
