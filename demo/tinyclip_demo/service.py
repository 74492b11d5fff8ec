"""What the page asks for; knows models, pictures and numbers, no page."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from tinyclip_demo.classify import Classifier, ClassifyResult
from tinyclip_demo.disagree import Miner
from tinyclip_demo.figures import MeasureReport, MeasureSettings
from tinyclip_demo.galleries import Galleries
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.measure import Step, measure
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.search import Searcher
from tinyclip_demo.texts import parse_labels, parse_templates
from tinyclip_edge.access import Headers, is_local
from tinyclip_edge.errors import ConfigError

POLL_SECONDS = 0.1
DOWNLOADS_KEPT = 64


class DemoService:
    """All models behind one lock: they run one at a time, so that times mean something."""

    def __init__(
        self,
        shelf: ModelRegistry,
        gallery: Gallery,
        *,
        index_folder: Path | None = None,
        paths: bool = True,
        trusting: bool = False,
    ) -> None:
        """Keep indexes in ``index_folder``.

        ``paths``: the page offers to open folders of this machine and to add models, to visitors on
        this machine itself, or to all of them where it is ``trusting``.
        """
        self.shelf, self.paths, self._trusting = shelf, paths, trusting
        self.galleries = Galleries(gallery)
        self.lock = threading.RLock()
        self.searcher = Searcher(shelf, self.lock, index_folder)
        self.miner = Miner(shelf, self.searcher, self.lock)
        self._classifier = Classifier(shelf)
        self._downloads = tempfile.TemporaryDirectory(prefix="tinyclip-demo-")

    def check_paths(self, client: str | None, headers: Headers) -> None:
        """Raise ConfigError unless this visitor may name paths and models of this machine.

        ``client``: address of the other end; what a proxy says of another one grants nothing.
        """
        if not self.paths or not (self._trusting or is_local(client, headers)):
            raise ConfigError(
                "visitors from elsewhere cannot open folders or add models of this machine: start "
                "the demo with --images FOLDER and --student MODEL, or with --trust-visitors"
            )

    def arriving(self, names: Sequence[str] | None) -> Iterator[tuple[tuple[int, ...], bool]]:
        """Yield the loaded ones of the chosen models whenever there are more, and whether all are.

        Start loading when nobody has; raise ConfigError for no choice, ModelError when none loads.
        """
        numbers = self.shelf.numbers(names)
        self.shelf.start()
        seen: tuple[int, ...] | None = None
        while True:
            settled = self.shelf.settled(numbers)
            ready = self.shelf.ready(numbers)
            if settled or ready != seen:
                yield ready, settled
            if settled:
                return
            seen = ready
            time.sleep(POLL_SECONDS)

    def classify(
        self, picture: Image.Image, labels: str, templates: str, numbers: Sequence[int]
    ) -> list[ClassifyResult]:
        """Return the answers of these models; raise DataError for labels that need mending."""
        wanted, prompts = parse_labels(labels), parse_templates(templates)
        with self.lock:
            return self._classifier.classify(picture, wanted, prompts, numbers)

    def measure(
        self, numbers: Sequence[int], settings: MeasureSettings, pairs: Gallery | None
    ) -> Iterator[Step | MeasureReport]:
        """Yield steps, at the end the report."""
        return measure(self.shelf, numbers, settings, pairs, self.lock)

    def download(self, name: str) -> Path:
        """Return a new path that ends in ``name``, for a file that a visitor takes away."""
        root = Path(self._downloads.name)
        folders = sorted(root.iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
        for folder in folders[: max(0, len(folders) - DOWNLOADS_KEPT + 1)]:
            shutil.rmtree(folder, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=root)) / name
