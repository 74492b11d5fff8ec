"""The service behind the page: models, galleries and measurements, without gradio."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from tinyclip_demo.classify import Classifier, ClassifyResult
from tinyclip_demo.disagree import Miner
from tinyclip_demo.figures import MeasureReport, MeasureSettings
from tinyclip_demo.galleries import Galleries
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.measure import MeasureProgress, measure
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.own_pictures import Comparer
from tinyclip_demo.search import Searcher
from tinyclip_demo.texts import parse_labels, parse_templates
from tinyclip_edge.access import Headers, is_local
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.tailoring.work import RUNS

POLL_SECONDS = 0.1
MAX_DOWNLOADS = 64
MAX_MEASURED = 16  # selections of models


class DemoService:
    """All models behind one lock: they run one at a time, so that timings are meaningful."""

    def __init__(
        self,
        registry: ModelRegistry,
        gallery: Gallery,
        *,
        index_folder: Path | None = None,
        runs: Path = RUNS,
        paths: bool = True,
        trust_visitors: bool = False,
    ) -> None:
        """Store indexes in ``index_folder``; ``runs`` holds the finished ``tailor`` runs.

        ``paths`` lets visitors on this machine open its folders and add models; with
        ``trust_visitors``, all visitors may.
        """
        self.registry, self.paths, self._trust_visitors = registry, paths, trust_visitors
        self.galleries = Galleries(gallery)
        self.lock = threading.RLock()
        self.searcher = Searcher(registry, self.lock, index_folder)
        self.miner = Miner(registry, self.searcher, self.lock)
        self._classifier = Classifier(registry)
        self.comparer = Comparer(registry, self.searcher, self._classifier, self.lock)
        self.runs = runs
        self._measured: OrderedDict[tuple[int, ...], MeasureReport] = OrderedDict()
        self._downloads = tempfile.TemporaryDirectory(prefix="tinyclip-demo-")
        self._download_folders: deque[Path] = deque()  # oldest first

    def may_open_paths(self, client: str | None, headers: Headers) -> bool:
        """Whether this visitor may open paths and models of this machine, and see their names.

        ``client`` is the address of the connection; addresses forwarded by a proxy grant no rights.
        """
        return self.paths and (self._trust_visitors or is_local(client, headers))

    def check_paths(self, client: str | None, headers: Headers) -> None:
        """Raise ConfigError unless ``may_open_paths``."""
        if not self.may_open_paths(client, headers):
            raise ConfigError(
                "visitors from other machines cannot open folders or add models of this one: start "
                "the demo with --images FOLDER and --student MODEL, or with --trust-visitors"
            )

    def loaded_models(self, names: Sequence[str] | None) -> Iterator[tuple[tuple[int, ...], bool]]:
        """Yield the loaded ones of the selected models at each change, and if loading is over.

        Starts loading if necessary. Raises ConfigError for an empty selection, ModelError when all
        models fail.
        """
        numbers = self.registry.numbers(names)
        self.registry.start()
        previous: tuple[int, ...] | None = None
        while True:
            is_settled = self.registry.is_settled(numbers)
            loaded = self.registry.ready(numbers)
            if is_settled or loaded != previous:
                yield loaded, is_settled
            if is_settled:
                return
            previous = loaded
            time.sleep(POLL_SECONDS)

    def classify(
        self, picture: Image.Image, labels: str, templates: str, numbers: Sequence[int]
    ) -> list[ClassifyResult]:
        """Return the results of these models; raise DataError for unusable labels."""
        names, prompts = parse_labels(labels), parse_templates(templates)
        with self.lock:
            return self._classifier.classify(picture, names, prompts, numbers)

    def measure(
        self, numbers: Sequence[int], settings: MeasureSettings, pairs: Gallery | None
    ) -> Iterator[MeasureProgress | MeasureReport]:
        """Yield progress, then the report."""
        for update in measure(self.registry, numbers, settings, pairs, self.lock):
            # Figures on pictures that a visitor opened are shown to nobody else.
            is_public = pairs is None or pairs is self.galleries.default
            if is_public and isinstance(update, MeasureReport):
                self._measured[tuple(numbers)] = update
                self._measured.move_to_end(tuple(numbers))
                while len(self._measured) > MAX_MEASURED:
                    self._measured.popitem(last=False)
            yield update

    def last_measurement(self, numbers: Sequence[int]) -> MeasureReport | None:
        """Return the last report of these models since the start, None if there is none."""
        return self._measured.get(tuple(numbers))

    def download(self, name: str) -> Path:
        """Return a new path that ends in ``name``, for a file to download."""
        while len(self._download_folders) >= MAX_DOWNLOADS:
            shutil.rmtree(self._download_folders.popleft(), ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=self._downloads.name))
        self._download_folders.append(folder)
        return folder / name
