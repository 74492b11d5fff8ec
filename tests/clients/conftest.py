"""A bundle of toy size with PyTorch's answers, and the clients that are installed here."""

from __future__ import annotations

import functools
import json
import pickle
import shutil
import subprocess
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from answering import answering
from bundle_clients import (
    HERE,
    INSTALL,
    LABELS,
    PACKAGES,
    STANDALONE,
    TEXTS,
    FileHandler,
    Opened,
)
from shared_builds import built_once

OLDEST_NODE = 20


@pytest.fixture(scope="session")
def opened(toy_teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """The toy teacher as a bundle that no client may change."""

    def build(folder: Path) -> None:
        (folder / "opened.pickle").write_bytes(
            pickle.dumps(export_opened(toy_teacher_folder, folder))
        )

    folder = built_once(tmp_path_factory, "clients", build)
    exported: Opened = pickle.loads((folder / "opened.pickle").read_bytes())
    return exported


def export_opened(teacher: Path, folder: Path) -> Opened:
    """Export the bundles below a folder and compute what PyTorch answers."""
    import torch

    from tinyclip_edge.models import load_clip
    from tinyclip_edge.runtime.bundle import Manifest
    from tinyclip_export import export_bundle
    from tinyclip_export.bundle.pipeline_file import write_combined

    random = np.random.default_rng(3)
    clip = load_clip(str(teacher))
    size = clip.image_size
    texts = [*LABELS, *TEXTS]
    pictures = [Image.fromarray(random.integers(0, 256, (size, size, 3), np.uint8)) for _ in texts]
    models = folder / "models"
    export_bundle(clip, models / "toy", pairs=(pictures, texts), max_drop=100.0)
    shutil.copytree(models / "toy", models / STANDALONE)
    for precision in ("fp32", "int8"):  # as `export --standalone` does
        write_combined(models / STANDALONE, precision, clip, share_weights=False)
    ids = clip.tokenizer(TEXTS)
    with torch.inference_mode():
        image = clip.model.encode_image(clip.preprocess(pictures[0])[None], normalize=True)
        labels = clip.model.encode_text(clip.tokenizer(LABELS), normalize=True)
        scores = (clip.logit_scale * image @ labels.T).softmax(dim=-1)[0].tolist()
        pixels = torch.stack([clip.preprocess(picture) for picture in pictures[1:3]])
        image_embeds = clip.model.encode_image(pixels, normalize=True).numpy()
        text_embeds = clip.model.encode_text(ids, normalize=True).numpy()
    int8 = Manifest.read(models / "toy").verification["precisions"]["int8"]
    verified = {tower: int8[tower]["cosine_min"] for tower in ("image", "text")}
    end = int(ids.max())
    return Opened(
        models=models,
        name="toy",
        size=size,
        pixels=pixels.numpy(),
        image=np.asarray(pictures[0]),
        context=clip.context_length,
        end=end,
        ids=[row[: row.index(end) + 1] for row in ids.tolist()],
        image_embeds=image_embeds,
        text_embeds=text_embeds,
        scores=dict(zip(LABELS, scores, strict=True)),
        # The bundle was verified on these very inputs; the last bits are the client's own.
        cosine={
            "fp32": {"image": 0.99999, "text": 0.99999},
            "q8": {tower: cosine - 1e-5 for tower, cosine in verified.items()},
        },
    )


@pytest.fixture(scope="session")
def node() -> str:
    """Node's program; skips where Node or the packages are not installed."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no Node on PATH")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"Node {version.stdout.strip()}: the packages need {OLDEST_NODE}")
    if not (PACKAGES / "@huggingface" / "transformers").is_dir():
        pytest.skip(f"the package @huggingface/transformers is not installed: {INSTALL}")
    return program


@pytest.fixture(scope="session")
def ask_node(node: str, opened: Opened):
    """Run jobs in one Node process and return their answers."""

    def ask(*jobs: dict[str, Any]) -> list[dict[str, Any]]:
        done = subprocess.run(
            [node, str(HERE / "node_client.mjs")],
            input=json.dumps({"models": f"{opened.models}/", "jobs": jobs}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return ask


@pytest.fixture(scope="session")
def address(opened: Opened):
    """Where a server on this machine hands out page, packages and models."""
    handler = type("Files", (FileHandler,), {"models": opened.models})
    served = functools.partial(handler, directory=str(HERE))
    with answering(ThreadingHTTPServer(("127.0.0.1", 0), served)) as server:
        yield f"http://127.0.0.1:{server.server_port}"
