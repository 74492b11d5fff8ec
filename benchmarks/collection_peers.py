"""Index and search a folder of pictures: tinyclip-edge beside rclip, fastembed and imgsearch.

Each has an environment of its own, made here with uv, and an 8M-class CLIP with random weights,
which do for time: ours as a bundle, the others' in fp32 under the names and in the folders that
they read. rclip's preprocessing has 256 pixels, so its image tower has 257 positions, not 197.
imgsearch answers from a service: its figures include the start of that. Times are of whole
processes, with their processor seconds, which are more reliable on a busy machine; files are in the
page cache. The figures of a run are comparable with each other only.

    python benchmarks/collection_peers.py --data ../shared/data --work /tmp/peers \\
        --out benchmarks/results/collection-peers.json
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from cold_start import write_models
from export_latency import VIT_8M
from machine import machine_facts

QUERY = "a red bicycle"
CAMERA = (4032, 3024)  # pixels
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
        """Return what indexes a folder, and what searches it."""
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


def install(uv: str, requirement: str, venv: Path, options: list[str]) -> dict[str, Any]:
    """Install into a new environment; return its size, or why there is none."""
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
    """Write random weights where imgsearch looks for those that it has downloaded."""
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


def pictures(tar: Path, count: int) -> Iterator[bytes]:
    with tarfile.open(tar) as file:
        for member in file:
            if count and member.isfile() and member.name.lower().endswith((".jpeg", ".jpg")):
                content = file.extractfile(member)
                assert content is not None
                count -= 1
                yield content.read()


def collection_folders(work: Path, photos: int, small: int) -> list[Path]:
    names = (f"{photos}-photos-of-12-megapixels", f"{small}-pictures-of-64-pixels")
    return [work / "pictures" / name for name in names]


def write_collections(data: Path, big: Path, little: Path, photos: int, small: int) -> None:
    """Write both folders unless they are there."""
    if not big.exists():
        big.mkdir(parents=True)
        for number, content in enumerate(pictures(data / "imagenet-1k-sample.tar", photos)):
            with Image.open(io.BytesIO(content)) as image:
                photo = ImageOps.fit(image.convert("RGB"), CAMERA, Image.Resampling.BICUBIC)
                photo.save(big / f"{number:05d}.jpg", quality=85)
    if not little.exists():
        little.mkdir(parents=True)
        tar = data / "tiny-imagenet-200" / "train-00.tar"
        for number, content in enumerate(pictures(tar, small)):
            (little / f"{number:05d}.jpg").write_bytes(content)


def _in_a_process(work: Callable[..., None], *arguments: object) -> None:
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


def measured(command: list[str], folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """Run a command; return wall and processor seconds and the peak of memory in MB."""
    plain = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**plain, **environment, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not output.strip():
        raise SystemExit(f"{command[:4]} failed:\n{output.decode()[-2000:]}")
    return {
        "seconds": round(time.perf_counter() - start, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
    }


def compare(folder: Path, programs: list[Peer], rounds: int) -> dict[str, Any]:
    """Return each program's index and search of a folder; searches take turns."""
    indexes = programs[0].work / "indexes"
    shutil.rmtree(indexes, ignore_errors=True)  # of an earlier run
    indexes.mkdir()
    (programs[0].work / "models" / "rclip" / "db.sqlite3").unlink(missing_ok=True)
    found: dict[str, Any] = {}
    for peer in programs:
        found[peer.name] = {"index": measured(peer.commands(folder)[0], folder, peer.environment)}
        print(folder.name, peer.name, found[peer.name], flush=True)
    searches: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in programs}
    for _ in range(rounds):
        for peer in programs:
            search = peer.commands(folder)[1]
            searches[peer.name].append(measured(search, folder, peer.environment))
    for name, runs in searches.items():
        found[name]["search"] = {
            key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]
        }
        found[name]["least_search_seconds"] = min(run["seconds"] for run in runs)
    ours = found[programs[0].name]
    for values in found.values():
        values["times_ours"] = {
            f"{part} {key}": round(values[part][key] / ours[part][key], 2)
            for part in ("index", "search")
            for key in ("seconds", "cpu_seconds", "peak_mb")
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the tar files")
    parser.add_argument("--work", type=Path, required=True, help="models, pictures, environments")
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5, help="searches of each")
    parser.add_argument("--uv", default="uv")
    parser.add_argument("--find-links", help="folder of wheels for uv, such as torch for CPUs")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    work = options.work.absolute()
    links = ["--find-links", options.find_links] if options.find_links else []
    programs = peers(work)
    installs = {
        peer.label: install(options.uv, peer.requirement, peer.venv, links) for peer in programs
    }
    programs = [peer for peer in programs if peer.venv.exists()]
    # In processes of their own: a command's peak of memory is never below that of its parent.
    _in_a_process(write_peer_models, work / "models")
    write_imgsearch_weights(programs, work / "models" / ".cache" / "clip")
    folders = collection_folders(work, options.photos, options.small)
    _in_a_process(write_collections, options.data, *folders, options.photos, options.small)
    record: dict[str, Any] = {
        "machine": machine_facts(),
        "model": f"{VIT_8M}, random weights",
        "rounds": options.rounds,
        "install": installs,
        "collections": {},
    }
    for folder in folders:
        record["collections"][folder.name] = compare(folder, programs, options.rounds)
        record["load_after"] = round(os.getloadavg()[0], 2)
        options.out.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
