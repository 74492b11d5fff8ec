"""What a model that cannot be opened must look like to its user."""

from __future__ import annotations

import pytest

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import load_clip


def refused(folder, *parts):
    """Open a folder that must be refused in one line that holds all parts."""
    with pytest.raises(ModelError) as caught:
        load_clip(str(folder))
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text
