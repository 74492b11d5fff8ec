"""From picture file to embedding: tinyclip-edge beside fastembed, rclip, open_clip and others.

Each contender has its own process, with the model loaded, and its own environment. They take turns
with one photo of 12 megapixels, then with a folder of photos, so that all meet the same load. The
models are of the same 8M class; their weights are random, which suffices for times. Ours run in
int8 and fp32, the others, like their programs, in fp32. rclip's model has 256 pixels. Photos are
enlarged from ImageNet, with grain of a fixed seed so that the files are as large as a camera's
(about 3 MB). sentence-transformers has no ONNX form of CLIP and runs in PyTorch. Finally, the bound
of the mode "fast" is measured: its pixels and embeddings against the exact ones.

    python benchmarks/file_to_embedding.py --data ../shared/data --work /tmp/peers \\
        --out benchmarks/results/file-to-embedding.json
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from collection_peers import CAMERA, pictures, run_in_a_process
from collection_programs import install, peers_parser, write_peer_models
from machine import machine_facts
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.runtime.protocol import ImageInput

GRAIN = 6  # levels, standard deviation
LOOP = """
import json, os, resource, sys, time
def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
print("ready", flush=True)
for line in sys.stdin:
    paths = json.loads(line)
    cpu, start = used(), time.perf_counter()
    rows = encode(paths)
    assert rows.shape == (len(paths), 512), rows.shape
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "cpu_seconds": used() - cpu}), flush=True)
"""
OURS = """
import sys
from pathlib import Path
from tinyclip_edge import EdgeCLIP
clip = EdgeCLIP.load(sys.argv[1] + "/bundle", precision="{precision}", decode="{decode}")
def encode(paths):
    return clip.index([Path(path) for path in paths]).features
"""
FASTEMBED = """
import sys
import numpy as np
from numpy.typing import NDArray
from fastembed import ImageEmbedding
folder = sys.argv[1] + "/fastembed/image"
tower = ImageEmbedding("Qdrant/clip-ViT-B-32-vision", specific_model_path=folder)
def encode(paths):
    return np.stack(list(tower.embed(paths)))
"""
RCLIP = """
import sys
import numpy as np
from numpy.typing import NDArray
from rclip.model import Model
from rclip.utils.helpers import read_image
model = Model()
def encode(paths):
    parts = [paths[at : at + 8] for at in range(0, len(paths), 8)]
    return np.concatenate([
        model.compute_image_features([read_image(path) for path in part], for_indexing=True)
        for part in parts
    ])
"""
OPEN_CLIP = """
import sys
import open_clip, torch
from PIL import Image
folder = "local-dir:" + sys.argv[1] + "/open_clip"
model, _, preprocess = open_clip.create_model_and_transforms(folder)
model.eval()
@torch.inference_mode()
def encode(paths):
    rows = [
        model.encode_image(torch.stack([preprocess(Image.open(p)) for p in paths[at : at + 32]]))
        for at in range(0, len(paths), 32)
    ]
    return torch.cat(rows).numpy()
"""
SENTENCE_TRANSFORMERS = """
import sys
from PIL import Image
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1] + "/sentence-transformers", device="cpu")
def encode(paths):
    return model.encode([Image.open(path) for path in paths], show_progress_bar=False)
"""
# Contender: package, program.
CONTENDERS = {
    "tinyclip-edge int8, fast": (".", OURS.format(precision="int8", decode="fast")),
    "tinyclip-edge int8, exact": (".", OURS.format(precision="int8", decode="exact")),
    "tinyclip-edge fp32, fast": (".", OURS.format(precision="fp32", decode="fast")),
    "fastembed": ("fastembed", FASTEMBED),
    "rclip": ("rclip", RCLIP),
    "open_clip": ("open_clip_torch", OPEN_CLIP),
    "sentence-transformers": ("sentence-transformers", SENTENCE_TRANSFORMERS),
}
OURS_BEST = next(iter(CONTENDERS))


class Contender:
    """A process that waits for paths."""

    def __init__(self, name: str, work: Path) -> None:
        self.name = name
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        environment |= {"HF_HUB_OFFLINE": "1", "RCLIP_DATADIR": str(work / "models" / "rclip")}
        if not name.startswith("tinyclip-edge"):
            environment.pop("PYTHONPATH", None)
        python = venv_of(name, work) / "bin" / "python"
        self.process = subprocess.Popen(
            [str(python), "-c", CONTENDERS[name][1] + LOOP, str(work / "models")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=work,
        )  # fmt: skip
        self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} has ended")
        return line

    def encode(self, paths: list[str]) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(paths) + "\n")
        self.process.stdin.flush()
        figures: dict[str, float] = json.loads(self._line())
        return figures

    def close(self) -> float:
        """End the process; return its peak memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        self.process.communicate()
        return round(int(peak.split()[1]) / 1024, 1)


def venv_of(name: str, work: Path) -> Path:
    return work / "venvs" / name.partition(" ")[0]


def write_photos(data: Path, folder: Path, count: int) -> None:
    """Write enlarged photos with grain unless they exist."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    for number, content in enumerate(pictures(data / "imagenet-1k-sample.tar", count)):
        path = folder / f"{number:05d}.jpg"
        grain = noise.integers(0, CAMERA[1] * CAMERA[0])  # offset of a picture's grain
        if path.exists():
            continue
        with Image.open(io.BytesIO(content)) as image:
            photo = ImageOps.fit(image.convert("RGB"), CAMERA, Image.Resampling.BICUBIC)
        Image.fromarray(with_grain(np.asarray(photo), int(grain))).save(path, quality=90)


def with_grain(pixels: NDArray[np.uint8], offset: int) -> NDArray[np.uint8]:
    """Return 12-megapixel pixels ``[H, W, 3]`` with noise that starts at another offset."""
    grain = np.roll(_grain(), offset).reshape(*pixels.shape[:2], 1)
    return (pixels.astype(np.float32) + grain).clip(0, 255).astype(np.uint8)


@cache
def _grain() -> NDArray[np.float32]:
    levels = np.random.default_rng(1).standard_normal(CAMERA[0] * CAMERA[1], dtype=np.float32)
    return (GRAIN * levels).astype(np.float32)


def write_models_of_all(models: Path) -> None:
    """Write the models of rclip, fastembed, open_clip and sentence-transformers."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

    write_peer_models(models)
    folder = models / "sentence-transformers"
    if (folder / "modules.json").exists():
        return
    width = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
    config = CLIPConfig(
        vision_config={**width, "num_hidden_layers": 10, "image_size": 224, "patch_size": 16},
        text_config={**width, "num_hidden_layers": 3, "vocab_size": 49408, "eos_token_id": 49407},
        projection_dim=512,
    )
    inner = folder / "0_CLIPModel"
    CLIPModel(config).save_pretrained(inner)
    CLIPImageProcessor().save_pretrained(inner)
    CLIPTokenizerFast(tokenizer_file=str(models / "bundle" / "tokenizer.json")).save_pretrained(
        inner
    )
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel"}
    module["type"] = "sentence_transformers.models.CLIPModel"
    (folder / "modules.json").write_text(json.dumps([module]))


def bound(exact: EdgeCLIP, images: Sequence[ImageInput]) -> dict[str, float]:
    """Return how far pixels and embeddings of the mode "fast" are from the exact ones."""
    fast = exact.decoding("fast")
    levels = [
        np.abs(fast.preprocess.pixels(image).astype(int) - exact.preprocess.pixels(image))
        for image in images
    ]
    cosines = (exact.encode_image(images) * fast.encode_image(images)).sum(axis=1)
    return {
        "pictures": len(images),
        "largest_levels": int(max(each.max() for each in levels)),
        "mean_levels": round(float(np.mean([each.mean() for each in levels])), 3),
        "least_cosine": round(float(cosines.min()), 5),
        "mean_cosine": round(float(cosines.mean()), 5),
    }


def compare(contenders: list[Contender], paths: list[str], rounds: int) -> dict[str, Any]:
    """Return each contender's least and median time per photo."""
    runs: dict[str, list[dict[str, float]]] = {each.name: [] for each in contenders}
    for turn in range(rounds + 1):
        for each in contenders:
            figures = each.encode(paths)
            if turn:  # the first warms up
                runs[each.name].append(figures)
    result: dict[str, Any] = {}
    for name, turns in runs.items():
        result[name] = {
            f"{key}_{kind}": round(function(run[key] for run in turns) / len(paths), 5)
            for key in ("seconds", "cpu_seconds")
            for kind, function in (("least", min), ("median", statistics.median))
        }
    ours = dict(result[OURS_BEST])
    for values in result.values():
        values["times_ours"] = {key: round(values[key] / ours[key], 2) for key in ours}
    return result


def main() -> None:
    parser = peers_parser(__doc__, "models, photos, environments")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of one photo")
    parser.add_argument("--folder-rounds", type=int, default=2, help="rounds of the folder")
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS))
    options = parser.parse_args()
    work = options.work.absolute()
    links = ["--find-links", options.find_links] if options.find_links else []
    root = str(Path(__file__).parents[1])
    for name in options.only:
        requirement = CONTENDERS[name][0].replace(".", root)
        failure = install(options.uv, requirement, venv_of(name, work), links).get("failed")
        if failure:
            raise SystemExit(f"{name}: {failure}")
    run_in_a_process(write_models_of_all, work / "models")
    folder = work / "pictures" / "photos-with-grain"
    run_in_a_process(write_photos, options.data, folder, options.photos)
    paths = [str(path) for path in sorted(folder.iterdir())[: options.photos]]
    contenders = [Contender(name, work) for name in options.only]
    record: dict[str, Any] = {
        "machine": machine_facts(),
        "photos": len(paths),
        "megabytes_of_a_photo": round(
            statistics.mean(Path(path).stat().st_size for path in paths) / 1e6, 2
        ),
        "one_photo": compare(contenders, paths[:1], options.rounds),
        "folder": compare(contenders, paths, options.folder_rounds),
        "peak_mb": {each.name: each.close() for each in contenders},
        "bound": bound(EdgeCLIP.load(work / "models" / "bundle"), paths[:50]),
        "load_after": round(os.getloadavg()[0], 2),
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
