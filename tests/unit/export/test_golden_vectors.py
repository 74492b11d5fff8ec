"""Golden vectors: they replay, notice another answer, and need no torch."""

import json
import shutil

import pytest

from tinyclip_edge.runtime.bundle import Manifest
from tinyclip_edge.runtime.replay import replay


def test_golden_vectors_replay_and_notice_another_answer(exported, tmp_path):
    assert replay(exported.folder, "fp32").min_cosine == pytest.approx(1.0, abs=1e-5)
    copy = tmp_path / "bundle"
    shutil.copytree(exported.folder, copy)
    path = copy / "manifest.json"
    content = json.loads(path.read_text())
    golden = content["golden"]["embeddings"]
    golden["fp32"]["image"], golden["fp32"]["text"] = (
        golden["fp32"]["text"],
        golden["fp32"]["image"],
    )
    path.write_text(json.dumps(content))
    assert replay(copy, "fp32").min_cosine < 0.9


def test_golden_pixels_are_what_was_hashed(exported):
    from tinyclip_edge.runtime.golden import decode_image, pixels_hash
    from tinyclip_edge.runtime.preprocess import Preprocess

    config = json.loads((exported.folder / "preprocessor_config.json").read_text())
    preprocess = Preprocess.from_config(config)
    for entry in Manifest.read(exported.folder).golden["images"]:
        assert pixels_hash(preprocess(decode_image(entry["png"]))) == entry["pixels_sha256"]


def test_replaying_process_loads_no_torch(exported):
    import subprocess
    import sys

    code = (
        "import sys; from tinyclip_export.verification.reload import main\n"
        f"main([{str(exported.folder)!r}, 'int8'])\n"
        "print(); print('torch' in sys.modules, 'onnx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
