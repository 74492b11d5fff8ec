"""The programs that ``collection_peers`` compares: environments, models and commands of each."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cold_start import write_models
from export_latency import VIT_8M

QUERY = "a red bicycle"
RCLIP_MODEL, RCLIP_PIXELS = "ViT-B-32-256-datacomp_s34b_b86k", 256
FASTEMBED_INDEX = """
import json, sys
from pathlib import Path
import numpy as np
from fastembed import ImageEmbedding
folder, out, model = sys.argv[1:]
paths = sorted(str(path) for path in Path(folder).rglob("*.jpg"))
tower = ImageEmbedding("Qdrant/clip-ViT-B-32-vision", specific_model_path=model + "/image")
np.save(out + ".npy", np.stack(list(tower.embed(paths))))
Path(out + ".json").write_text(json.dumps(paths))
print("indexed")
"""
FASTEMBED_SEARCH = """
import json, sys
from pathlib import Path
import numpy as np
from fastembed import TextEmbedding
out, model, query = sys.argv[1:]
tower = TextEmbedding("Qdrant/clip-ViT-B-32-text", specific_model_path=model + "/text")
vector = next(iter(tower.embed([query])))
scores = np.load(out + ".npy") @ vector
paths = json.loads(Path(out + ".json").read_text())
for row in np.argsort(-scores)[:10]:
    print(f"{scores[row]:.3f} {paths[row]}")
"""
IMGSEARCH = """
import signal, subprocess, sys, time
from pathlib import Path
from imgsearch.client import Client
mode, program, base, subject, count = sys.argv[1:]
bind, pid = base + "/s", Path(base, "isearch.pid")
Path(base).mkdir(parents=True, exist_ok=True)
options = ["-b", base, "-m", "ViT-8Y", "-B", bind]
server = subprocess.Popen([program, "service", *options, "start"])
def wait(done):
    while not done():
        if server.poll() is not None:
            sys.exit("the service has ended")
        time.sleep(0.02)
wait(pid.exists)
client = Client(bind=bind)
if mode == "index":
    client.add_images([subject])
    wait(lambda: (client.get_db_info() or {}).get("count", 0) >= int(count))
    print("indexed")
else:
    print(client.search(subject))
server.send_signal(signal.SIGTERM)
server.wait()
"""
IMGSEARCH_WEIGHTS = """
import sys, torch
from tinyclip import create_model_and_transforms
model = create_model_and_transforms("TinyCLIP-ViT-8M-16-Text-3M")[0]
torch.save(model.state_dict(), sys.argv[1])
"""


@dataclass
class Peer:
    """A program, its environment, and its commands for a folder."""

    name: str
    requirement: str
    work: Path
    precision: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def venv(self) -> Path:
        return self.work / "venvs" / self.label

    @property
    def label(self) -> str:
        """Name of the package."""
        return self.name.split()[0]

    def program(self, name: str) -> str:
        return str(self.venv / "bin" / name)

    def commands(self, folder: Path) -> tuple[list[str], list[str]]:
        """Return the commands that index a folder and search it."""
        out = self.work / "indexes" / f"{self.name}-{folder.name}".replace(" ", "-")
        models = self.work / "models"
        if self.name == "rclip":
            search = [self.program("rclip"), "--filepath-only", QUERY]
            return search, [*search[:-1], "--no-indexing", QUERY]
        if self.name == "fastembed":
            python = [self.program("python"), "-c"]
            places = [str(out), str(models / "fastembed")]
            index = [*python, FASTEMBED_INDEX, str(folder), *places]
            return index, [*python, FASTEMBED_SEARCH, *places, QUERY]
        if self.name == "imgsearch":
            driver = [self.program("python"), "-c", IMGSEARCH]
            shared = [self.program("isearch"), str(out)]
            count = str(len(list(folder.iterdir())))
            index = [*driver, "index", *shared, str(folder), count]
            return index, [*driver, "search", *shared, QUERY, count]
        bundle = ["--bundle", str(models / "bundle")]
        index = ["index", str(folder), "--into", f"{out}.npz", *bundle]
        search = ["search", QUERY, "--in", f"{out}.npz", *bundle]
        edge = self.program("tinyclip-edge")
        return [edge, *index, "--precision", self.precision], [edge, *search]


def peers(work: Path) -> list[Peer]:
    root = str(Path(__file__).parents[1])
    return [
        Peer("tinyclip-edge int8", root, work, "int8"),
        Peer("tinyclip-edge fp32", root, work, "fp32"),
        Peer("rclip", "rclip", work, environment={"RCLIP_DATADIR": str(work / "models" / "rclip")}),
        Peer("fastembed", "fastembed", work),
        Peer("imgsearch", "imgsearch[all]", work, environment={"HOME": str(work / "models")}),
    ]


def peers_parser(description: str | None, work: str) -> argparse.ArgumentParser:
    """Return the options of a comparison with other programs; `work` is the help of `--work`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the tar files")
    parser.add_argument("--work", type=Path, required=True, help=work)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--uv", default="uv")
    parser.add_argument("--find-links", help="folder of wheels for uv, such as torch for CPUs")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def install(uv: str, requirement: str, venv: Path, options: list[str]) -> dict[str, Any]:
    """Install into a new environment; return its size, or why that failed."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(venv)], check=True)
        command = [uv, "pip", "install", "-q", "--python", str(python), *options, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(venv)
            return {"failed": done.stderr.strip().splitlines()[-1][:300]}
    packages = next((venv / "lib").glob("python*/site-packages"))
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
    return {"megabytes": round(size / 1e6, 1)}


def write_peer_models(models: Path) -> None:
    """Write a bundle, and the same kind of model in the folders of rclip and fastembed."""
    import onnx
    import open_clip
    import torch

    from tinyclip_edge.models import load_clip
    from tinyclip_export.onnx_passes import exporter
    from tinyclip_export.towers.factory import image_tower, text_tower

    if (models / "fastembed" / "text" / "model.onnx").exists():
        return
    _, folder = write_models(models)
    torch.manual_seed(0)
    clip = load_clip(VIT_8M, allow_random=True)
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    config["vision_cfg"]["image_size"] = RCLIP_PIXELS
    wide: Any = open_clip.CLIP(**config).eval()
    rclip = models / "rclip" / RCLIP_MODEL
    rclip.mkdir(parents=True, exist_ok=True)
    image, text = rclip / "visual.onnx", rclip / "textual.onnx"
    exporter.export_image_tower(image_tower(wide), image, image_size=RCLIP_PIXELS)
    exporter.export_text_tower(text_tower(clip.model, clip.tokenizer(["a"])[0]), text)
    for path in (image, text):
        graph = onnx.load(path)
        _rename(graph.graph, graph.graph.input[0], "input")
        _rename(graph.graph, graph.graph.output[0], "output")
        onnx.save(graph, path)
    vocabulary = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    (models / "rclip" / "tokenizer").mkdir(exist_ok=True)
    shutil.copy(vocabulary, models / "rclip" / "tokenizer")
    _write_fastembed(models / "bundle", models / "fastembed")


def write_imgsearch_weights(programs: list[Peer], folder: Path) -> None:
    """Write random weights to the place where imgsearch stores its downloads."""
    path = folder / "TinyCLIP-ViT-8M-16-Text-3M-YFCC15M.pt"
    for peer in programs:
        if peer.name == "imgsearch" and not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            python = peer.program("python")
            subprocess.run([python, "-c", IMGSEARCH_WEIGHTS, str(path)], check=True)


def _rename(graph: Any, value: Any, name: str) -> None:  # noqa: ANN401 - of onnx
    before, value.name = value.name, name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [name if other == before else other for other in names]


def _write_fastembed(bundle: Path, folder: Path) -> None:
    for tower in ("image", "text"):
        (folder / tower).mkdir(parents=True, exist_ok=True)
        shutil.copy(bundle / "onnx" / f"{tower}-fp32.onnx", folder / tower / "model.onnx")
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": 224},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "image" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    shutil.copy(bundle / "tokenizer.json", folder / "text")
    settings = {"model_max_length": 77, "pad_token": "<|endoftext|>"}
    (folder / "text" / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "text" / "config.json").write_text(json.dumps({"pad_token_id": 49407}))
