"""Reading shards that a test wrote, and the parts of their files."""

import tarfile

import pytest

from pair_shards import draw, encoded
from tinyclip_edge.data import Losses, read_shard
from tinyclip_edge.errors import DataError


def read(path, losses=None):
    """Return the pairs of a shard."""
    return read_shard(path, Losses() if losses is None else losses)


def refused(read, *args):
    """Return the message, one line, of a reader that must refuse what it is called with."""
    with pytest.raises(DataError) as caught:
        list(read(*args))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def members(path):
    """Each member's name, the place of its header and the end of its content."""
    with tarfile.open(path) as tar:
        return [(m.name, m.offset, m.offset_data + m.size) for m in tar.getmembers()]


def frames(clips, count):
    """Samples as cutters of videos write them: the key has a dot."""
    picture = encoded(draw("red", "bar", "big"))
    return [
        (f"clip{clip:03}.frame{frame:02}", {"jpg": picture, "txt": f"{clip} at {frame}".encode()})
        for clip in range(clips)
        for frame in range(count)
    ]
