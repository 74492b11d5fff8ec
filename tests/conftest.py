"""Fixtures shared by all tests: a CLIP of toy size, in memory and on disk."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shared_builds import built_once

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip
    from toy_export import ToyExport

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: a thread each, set before torch
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SLOW_HANGS = 1800  # seconds, many times what a slow test takes beside others on two cores

TOY_WORDS = ("a", "photo", "of", "the", "cat", "dog", "red", "blue", "square", "circle", "bicycle")
TOY_MODEL_CFG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 128, "layers": 4, "head_width": 64},
    "text_cfg": {"context_length": 16, "width": 128, "heads": 2, "layers": 3},
}
TOY_PREPROCESS_CFG: dict[str, Any] = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def pytest_configure() -> None:
    """Heed Ctrl-C where a shell without job control started this in the background.

    SIGINT is ignored then, also by the processes that tests start and interrupt.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests, the first of which builds what others share, more time before they hang."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_HANGS))


def pytest_collection_finish() -> None:
    """Spend no time twice on what never changes: objects in memory, the exporter's operators."""
    gc.collect()
    gc.freeze()
    gc.callbacks.append(Survivors())
    if "torch" in sys.modules and find_spec("onnxscript"):
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        # Two thousand operators, whose sources it would parse again for each tower.
        ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))


class Survivors:
    """Lets full collections of garbage skip what an earlier one has left in memory.

    Every toy run and export collects a few times, which took a tenth of their time for modules and
    collected tests that stay to the end. What has died since is looked for now and then.
    """

    MANY = 500_000  # objects, some 100 MB

    def __init__(self) -> None:
        self._limit = gc.get_freeze_count() + self.MANY
        self._thawed = False

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        """Freeze what is left; thaw all before the next full collection once it has grown."""
        if phase != "stop" or info["generation"] != 2:
            return
        gc.freeze()
        if self._thawed:
            self._limit = gc.get_freeze_count() + self.MANY
            self._thawed = False
        elif gc.get_freeze_count() > self._limit:
            gc.unfreeze()
            self._thawed = True


def _byte_symbols() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def write_toy_tokenizer(path: Path) -> int:
    """Write a CLIP tokenizer.json that knows TOY_WORDS whole; return its vocabulary size."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    symbols = _byte_symbols()
    vocabulary = symbols + [s + "</w>" for s in symbols]
    merges: list[tuple[str, str]] = []
    for word in TOY_WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
                vocabulary.append("".join(pieces[:2]))
            pieces[:2] = ["".join(pieces[:2])]
    ids = {token: i for i, token in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = Tokenizer(models.BPE(ids, merges, end_of_word_suffix="</w>"))
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    tokenizer.save(str(path))
    return int(tokenizer.get_vocab_size())


@pytest.fixture(scope="session")
def toy_tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP tokenizer.json of some 600 tokens."""
    name = "tokenizer.json"
    folder = built_once(
        tmp_path_factory, "toy-tokenizer", lambda folder: write_toy_tokenizer(folder / name)
    )
    return folder / name


def make_toy_teacher(tokenizer_file: Path, seed: int = 0) -> LoadedClip:
    """A random CLIP whose LayerNorms and biases are not trivial, so that slips show."""
    import torch
    from tokenizers import Tokenizer

    from tinyclip_edge.models.assemble import assemble

    vocabulary = Tokenizer.from_file(str(tokenizer_file)).get_vocab_size()
    config = {
        **TOY_MODEL_CFG,
        "text_cfg": {**TOY_MODEL_CFG["text_cfg"], "vocab_size": vocabulary},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = assemble(
            config, TOY_PREPROCESS_CFG, name="toy-teacher", tokenizer_file=tokenizer_file
        )
        with torch.no_grad():
            for name, parameter in clip.model.named_parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
                elif name == "token_embedding.weight":
                    parameter.mul_(20)
    return clip


@pytest.fixture
def toy_teacher(toy_tokenizer_file: Path) -> LoadedClip:
    """Vision 32 px, patch 8, width 128, 4 layers; text width 128, 3 layers; embedding 64."""
    return make_toy_teacher(toy_tokenizer_file)


@pytest.fixture
def toy_teacher_of(toy_tokenizer_file: Path) -> Callable[[int], LoadedClip]:
    """The toy teacher with the random weights of a seed."""
    return lambda seed: make_toy_teacher(toy_tokenizer_file, seed)


@pytest.fixture(scope="session")
def toy_teacher_folder(toy_tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy teacher as an open_clip local-dir folder. Shared: do not write into it."""
    from tinyclip_edge.models import save_local_dir

    def build(folder: Path) -> None:
        save_local_dir(folder / "toy-teacher", make_toy_teacher(toy_tokenizer_file))

    return built_once(tmp_path_factory, "toy-teacher", build) / "toy-teacher"


@pytest.fixture(scope="session")
def exported(toy_teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ToyExport:
    """The toy teacher as a bundle. Shared: do not write into it."""
    from exported_towers import each_tower_exported_once
    from toy_export import read_toy_export, write_toy_export

    def build(folder: Path) -> None:
        with each_tower_exported_once(tmp_path_factory):
            write_toy_export(toy_teacher_folder, folder)

    folder = built_once(tmp_path_factory, "export", build)
    return read_toy_export(toy_teacher_folder, folder)


@pytest.fixture(scope="module")
def towers_exported_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Towers have the graphs of earlier ones that differ in weights alone, to trace them once."""
    from exported_towers import each_tower_exported_once

    with each_tower_exported_once(tmp_path_factory):
        yield


@pytest.fixture
def quick_exports(towers_exported_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such towers, and golden vectors are replayed in this process instead of two fresh ones."""
    from tinyclip_edge.runtime.replay import replay

    monkeypatch.setattr(
        "tinyclip_export.stages.replay_in_child",
        lambda folder, precision: {"cosine": replay(folder, precision).min_cosine},
    )


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs leave no page, which takes as long as a toy run."""
    from tinyclip_edge import report

    monkeypatch.setattr(report, "write_final_report", lambda *_, **__: None)


@pytest.fixture
def command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run ``tinyclip-edge WORDS`` in this process: (exit code, stdout, stderr)."""
    from tinyclip_edge.cli import app

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tinyclip-edge", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            app.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run
