"""A million pictures: every operation in memory that is a small multiple of what is stored."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import numpy as np
from tinyclip_edge import ImageIndex

count, width = 1_000_000, 256
rng = np.random.default_rng(0)

def codes(rows):
    return rng.integers(-127, 128, (rows, width), dtype=np.int8)

scales = np.full(count, 1e-3, np.float32)
index = ImageIndex(tuple(f"/pictures/{i:08d}.jpg" for i in range(count)), codes(count), "m", scales)
index = index.merge(ImageIndex(("x", "y"), codes(2), "m", scales[:2]))
index = index.remove(["x", "/pictures/00000007.jpg"])
index.save(sys.argv[1])
del index
index = ImageIndex.load(sys.argv[1])
assert len(index) == count and index.keys[7] == "/pictures/00000008.jpg"
query = index.vector("y")
assert index.top(query / np.linalg.norm(query), 1)[0].key == "y"
del index
index = ImageIndex.load(sys.argv[1], mmap=True)
assert index.top(query / np.linalg.norm(query), 1)[0].key == "y"
# Not ru_maxrss, in which that of the process that forked this one remains.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 1024)
"""


@pytest.mark.slow
def test_a_million_pictures(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "x.npz"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Codes and scales are 260 MB, keys about 80; as floats the codes alone would be 1,024.
    assert float(done.stdout) < 1000
