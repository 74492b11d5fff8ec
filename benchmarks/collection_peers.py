"""Index and search a folder of pictures: tinyclip-edge beside rclip, fastembed and imgsearch.

Each has its own environment, created here with uv, and an 8M-class CLIP. Weights are random, which
suffices for times: ours in a bundle, the others' in fp32 under the names and in the folders that
they read. rclip's preprocessing has 256 pixels, so its image tower has 257 positions, not 197.
imgsearch runs as a service, whose start is included in its figures. Times are of whole processes,
with processor seconds, which are more reliable on a busy machine; files are in the page cache. Only
figures of the same run are comparable.

    python benchmarks/collection_peers.py --data ../shared/data --work /tmp/peers \\
        --out benchmarks/results/collection-peers.json
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from collection_programs import (
    Peer,
    install,
    peers,
    peers_parser,
    write_imgsearch_weights,
    write_peer_models,
)
from export_latency import VIT_8M
from machine import machine_facts

CAMERA = (4032, 3024)  # pixels


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
    """Write both folders unless they exist."""
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


def run_in_a_process(work: Callable[..., None], *arguments: object) -> None:
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


def measured(command: list[str], folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """Run a command; return wall and processor seconds and peak memory in MB."""
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
    """Return figures of each program's indexing and searching of a folder; searches take turns."""
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
    parser = peers_parser(__doc__, "models, pictures, environments")
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5, help="searches per program")
    options = parser.parse_args()
    work = options.work.absolute()
    links = ["--find-links", options.find_links] if options.find_links else []
    programs = peers(work)
    installs = {
        peer.label: install(options.uv, peer.requirement, peer.venv, links) for peer in programs
    }
    programs = [peer for peer in programs if peer.venv.exists()]
    # In separate processes: a command's peak memory is never below that of its parent.
    run_in_a_process(write_peer_models, work / "models")
    write_imgsearch_weights(programs, work / "models" / ".cache" / "clip")
    folders = collection_folders(work, options.photos, options.small)
    run_in_a_process(write_collections, options.data, *folders, options.photos, options.small)
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
