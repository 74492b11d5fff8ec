"""What a training step costs: ``tinyclip-edge distill`` against a plain loop of the same maths.

Teacher and student have random weights, pictures are noise, captions have 8 to 27 tokens. The plain
loop (``plain_loop.py``) is float32, runs the teacher at every step and pads every text to 77
tokens. Each mode has its own process, so that peak memory can be measured. Modes take turns over
``--rounds``, and ratios compare figures of the same round. CPU-seconds are process time. On a CUDA
device, samples/s matter, and their share of the rate of a large bfloat16 matrix product.

    python benchmarks/training_speed.py --out benchmarks/results/training-speed.json
    python benchmarks/training_speed.py --device cuda --precision bf16 --batch 1024 --out …
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import machine_facts

if TYPE_CHECKING:
    from tinyclip_edge.config import RunConfig
    from tinyclip_edge.data import PairMemory
    from tinyclip_edge.models import LoadedClip

MODES: dict[str, list[str]] = {
    "plain": [],
    "live": ["data.cache_teacher=false"],
    "cached": [],
    "cached, checkpointing": ["run.grad_checkpointing=true"],
    "cached, micro-batches": ["run.micro_batch=8"],
    "cached, compiled": ["run.compile=true"],
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = 2  # tokens at the start and the end of every text
MATRIX = 8192  # rows and columns of the product that measures a GPU's rate


def captions(count: int, clip: LoadedClip) -> list[str]:
    """Return texts of 8 to 27 tokens, all lengths equally often: single letters are one token."""
    import random

    draw = random.Random(0)
    lengths = [8 + number % 20 for number in range(count)]
    texts = [" ".join(draw.choices(LETTERS, k=length - SPECIAL)) for length in lengths]
    counted = clip.tokenizer(texts).ne(0).sum(dim=1).tolist()
    assert counted == lengths, "single letters must be one token each"
    return texts


def random_pairs(count: int, clip: LoadedClip) -> PairMemory:
    """Return pictures of noise with their captions."""
    import torch

    from tinyclip_edge.data import PairMemory
    from tinyclip_edge.data.pairs import BadSamples, Pair

    size = clip.image_size
    noise = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=noise)
        for _ in range(count)
    ]
    texts = captions(count, clip)
    pairs = [Pair(f"{n:05d}", b"", (text,), f"{n:05d}") for n, text in enumerate(texts)]
    return PairMemory("noise", pairs, images, BadSamples("noise"))


def models(arguments: argparse.Namespace) -> tuple[LoadedClip, LoadedClip]:
    """Return teacher and student with random weights."""
    import torch

    from tinyclip_edge.models import create_student, load_clip

    torch.manual_seed(0)
    teacher = load_clip(arguments.teacher, allow_random=True)
    return teacher, create_student(arguments.student, teacher)


def configured(arguments: argparse.Namespace) -> RunConfig:
    from tinyclip_edge.config import load_config

    return load_config(
        "starter",
        [
            f"teacher.model={arguments.teacher}",
            f"student.model={arguments.student}",
            "loss.feature=0.0",
            "loss.teacher_logit_scale=50.0",
            f"optim.batch_size={arguments.batch}",
            f"optim.steps={arguments.steps + arguments.warmup}",
            "optim.warmup=0",
            f"run.device={arguments.device}",
            f"run.precision={arguments.precision}",
            *MODES[arguments.mode],
        ],
    )


def engine_step(arguments: argparse.Namespace) -> Callable[[int], float]:
    """Return a function from step number to loss that runs one training step."""
    from tinyclip_edge.data import Prefetch, TeacherFeatures
    from tinyclip_edge.train.accelerator import make_accelerator
    from tinyclip_edge.train.schedule import plan_stages
    from tinyclip_edge.train.stages.factory import StageFactory
    from tinyclip_edge.train.stages.student import InitialStudent
    from tinyclip_edge.train.tasks.encoders import pixel_codec
    from tinyclip_edge.train.tasks.teacher import Teacher

    config = configured(arguments)
    teacher, student = models(arguments)
    accelerator = make_accelerator(config.run)
    codec = pixel_codec(teacher)
    pairs = random_pairs(arguments.batch * 2, teacher)
    features = None
    if config.data.cache_teacher:
        features = TeacherFeatures("noise", len(pairs), len(pairs.captions))
    frozen = Teacher(teacher, codec, device=accelerator.device, features=features)
    factory = StageFactory(config, accelerator, teacher, frozen, codec)
    state = factory.begin(plan_stages(config)[0], InitialStudent(student))
    state.task.train()
    size = arguments.batch
    steps = range(arguments.warmup + arguments.steps + 1)  # the last one counts operations
    pin = accelerator.device.type == "cuda"
    batches = Prefetch(pairs.batches(0, size, seed=0), steps, lambda: None, pin=pin).__enter__()
    if features is not None:
        for number in (0, 1):  # one epoch, after which all features are cached
            frozen.features_of(pairs.batch(number, size, seed=0))

    def step(number: int) -> float:
        terms = state.task.terms(next(batches))
        state.optimizer_step.step(terms.loss, number, terms.after_backward)
        state.task.after_step()
        return float(terms.loss.detach())

    return step


def plain_step(arguments: argparse.Namespace) -> Callable[[int], float]:
    """Return the step of the plain loop."""
    from plain_loop import PlainLoop
    from tinyclip_edge.train.tasks.encoders import pixel_codec

    teacher, student = models(arguments)
    pairs = random_pairs(arguments.batch * 2, teacher)
    device = "cuda" if arguments.device == "cuda" else "cpu"
    config = configured(arguments).optim
    loop = PlainLoop(teacher, student, pixel_codec(teacher), config, device=device)
    batches = pairs.batches(0, arguments.batch, seed=0)
    return lambda _: loop.step(next(batches))


def work_of(step: Callable[[int], float], number: int) -> int:
    """Return the floating point operations of one step."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step(number)
    return int(counter.get_total_flops())


def matrix_rate(seconds: float = 1.0) -> float:
    """Return the operations per second of a square bfloat16 product on the CUDA device."""
    import torch

    a = torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(10):
            a @ a
        torch.cuda.synchronize()
        count += 10
    return count * 2 * MATRIX**3 / (time.perf_counter() - began)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one mode in this process."""
    import torch

    torch.set_num_threads(arguments.threads)
    step = plain_step(arguments) if arguments.mode == "plain" else engine_step(arguments)
    cuda = arguments.device == "cuda"
    losses = [step(number) for number in range(arguments.warmup)]
    cpu, wall = time.process_time(), time.perf_counter()
    for number in range(arguments.warmup, arguments.warmup + arguments.steps):
        losses.append(step(number))
    if cuda:
        torch.cuda.synchronize()
    cpu = (time.process_time() - cpu) / arguments.steps
    wall = (time.perf_counter() - wall) / arguments.steps
    figures = {
        "cpu_seconds": round(cpu, 3),
        "seconds": round(wall, 4),
        "samples_per_s": round(arguments.batch / wall, 2),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "losses": [round(loss, 5) for loss in losses],
    }
    if cuda:
        flops, rate = work_of(step, arguments.warmup + arguments.steps), matrix_rate()
        figures |= {
            "peak_device_bytes": torch.cuda.max_memory_allocated(),
            "flops": flops,
            "matrix_flops_per_s": rate,
            "share_of_matrix_rate": round(flops / wall / rate, 3),
        }
    return figures


def in_a_process(arguments: argparse.Namespace, mode: str) -> dict[str, Any]:
    """Measure a mode in a separate process."""
    options = [f"--{name}={getattr(arguments, name)}" for name in FORWARDED]
    command = [sys.executable, __file__, "--mode", mode, *options]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    print(f"{mode:24}", {k: v for k, v in figures.items() if k != "losses"}, flush=True)
    return figures


def summary(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return medians over rounds; ratios compare figures of the same round."""
    cost = "cpu_seconds"
    return {
        mode: {
            **{
                key: statistics.median(figures_of_round[key] for figures_of_round in figures)
                for key, value in figures[0].items()
                if not isinstance(value, list)
            },
            "times_fewer_cpu_seconds": round(
                statistics.median(
                    baseline[cost] / figures_of_round[cost]
                    for baseline, figures_of_round in zip(rounds["plain"], figures, strict=True)
                ),
                2,
            ),
        }
        for mode, figures in rounds.items()
    }


FORWARDED = (
    "teacher", "student", "batch", "steps", "warmup", "threads", "device", "precision",
)  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="ViT-B-32")
    parser.add_argument("--student", default="TinyCLIP-ViT-40M-32-Text-19M")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="steps measured after --warmup")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--modes", nargs="*", choices=list(MODES), default=list(MODES)[:-1])
    parser.add_argument("--mode", choices=list(MODES), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.mode is not None:
        print(json.dumps(measure(arguments)))
        return
    modes = ["plain", *(mode for mode in arguments.modes if mode != "plain")]
    rounds: dict[str, list[dict[str, Any]]] = {mode: [] for mode in modes}
    for _ in range(arguments.rounds):
        for mode in modes:
            rounds[mode].append(in_a_process(arguments, mode))
    result = {
        "command": ["python", "benchmarks/training_speed.py", *sys.argv[1:]],
        "settings": {name: getattr(arguments, name) for name in (*FORWARDED, "rounds")},
        "machine": machine_facts(),
        "modes": summary(rounds),
        "rounds": rounds,
    }
    print(json.dumps(result["modes"], indent=1))
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
