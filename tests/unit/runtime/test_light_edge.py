"""What importing the package, and using a bundle, loads: no more than is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "open_clip", "transformers", "gradio", "onnx", "optimum", "timm"}


def imported_by(program, *arguments):
    """Names of top-level modules that a fresh interpreter holds after the program."""
    code = program + "\nimport sys, json\nprint(json.dumps([m.split('.')[0] for m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_package_itself_loads_next_to_nothing():
    loaded = imported_by("import tinyclip_edge; tinyclip_edge.__version__")
    assert not loaded & (HEAVY | {"numpy", "PIL", "onnxruntime", "tokenizers", "pydantic", "rich"})


def test_encoding_loads_no_torch(shared_tiny_bundle):
    program = """
import sys
import numpy as np
from tinyclip_edge import EdgeCLIP
clip = EdgeCLIP.load(sys.argv[1])
image = np.zeros((5, 7, 3), dtype=np.uint8)
assert clip.encode_image([image]).shape == clip.encode_text(["cat"]).shape == (1, 4)
assert len(clip.classify(image, ["cat", "red"])) == 2
assert clip.search("cat", clip.index([image]))[0].key == "0"
"""
    loaded = imported_by(program, str(shared_tiny_bundle.folder))
    assert "onnxruntime" in loaded and not loaded & HEAVY


def test_a_text_alone_loads_no_image_side(shared_tiny_bundle):
    program = """
import sys
from tinyclip_edge import EdgeCLIP
EdgeCLIP.load(sys.argv[1]).encode_text(["cat"])
"""
    loaded = imported_by(program, str(shared_tiny_bundle.folder))
    assert "onnxruntime" in loaded and not loaded & (HEAVY | {"PIL", "ftfy", "tempfile", "zipfile"})


def test_version_and_unknown_names():
    import tinyclip_edge

    assert tinyclip_edge.__version__[0].isdigit()
    assert {"EdgeCLIP", "__version__"} <= set(dir(tinyclip_edge))
    with pytest.raises(AttributeError, match="EdgeClip"):
        tinyclip_edge.EdgeClip  # noqa: B018
