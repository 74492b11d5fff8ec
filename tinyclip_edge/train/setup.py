"""What all stages of a run share, and the teacher features that the run reuses."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from accelerate import Accelerator

from tinyclip_edge.config import RunConfig
from tinyclip_edge.data import TeacherFeatures, TrainingPairs
from tinyclip_edge.errors import DataError
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.train.distributed import DistributedContext
from tinyclip_edge.train.feature_cache.fill import FeatureCacheFiller
from tinyclip_edge.train.monitoring.events import Observer
from tinyclip_edge.train.schedule import Stage
from tinyclip_edge.train.stages.factory import StageFactory
from tinyclip_edge.train.tasks.teacher import Teacher
from tinyclip_edge.train.tasks.validation import Validation
from tinyclip_edge.train.vocabulary import KeptTokens


@dataclass(frozen=True, slots=True)
class Setup:
    """What all stages of a run share."""

    config: RunConfig
    accelerator: Accelerator
    teacher: Teacher
    teacher_clip: LoadedClip  # the first teacher
    teacher_hash: str
    factory: StageFactory
    stages: tuple[Stage, ...]
    pairs: TrainingPairs
    validation: Validation | None
    features: TeacherFeatures | None  # for pairs in memory
    filler: FeatureCacheFiller | None  # for the feature cache
    distributed: DistributedContext
    data_hash: str  # of everything the batches depend on
    recipe: str  # digest of what determines the teacher's features
    kept_tokens: KeptTokens | None = None  # the student's vocabulary, if it has its own

    @property
    def shrinks(self) -> bool:
        """Whether the student shrinks by masks, or over more than one stage."""
        return len(self.stages) > 1 or self.stages[0].keep is not None

    @property
    def is_short(self) -> bool:
        """Whether the run ends within its first epoch; False for streams of unknown length."""
        samples = self.stages[-1].end * self.config.optim.batch_size
        return bool(self.pairs.memories) and samples < sum(map(len, self.pairs.memories))

    def load_features(self, path: Path) -> str | None:
        """Load the teacher features of a run folder; return why if that is impossible."""
        if self.features is None:
            return None
        faults = self.distributed.all_gather(self.features.load(path))
        if not self._is_same_everywhere(self.features):
            self.features.clear()
            return "are not the same for all processes"
        return next((fault for fault in faults if fault is not None), None)

    def compute_features(self, steps: int) -> None:
        """Compute the features of the first ``steps`` steps in the batches of the run.

        This makes them bit-identical, as rounding depends on which rows share a matrix product.
        """
        features, config = self.features, self.config
        if features is None or not self.pairs.memories:
            return
        size, augmented = config.optim.batch_size, config.data.augment_crop is not None
        batches = self.pairs.batches(
            0,
            size,
            seed=config.seed,
            distinct=config.data.batch_distinct,
            rows=self.distributed.rows(size),
        )
        for batch in islice(batches, steps):
            self.teacher.fill_tables(batch, pictures=not augmented)
            if features.filled == len(features.image) + len(features.text):
                return

    def read_cache(self, observer: Observer) -> None:
        """Read the feature cache into the tables of pairs in memory; streams read it themselves.

        Raises DataError if the processes do not see the same cache.
        """
        if self.filler is None or self.features is None or not self.pairs.memories:
            return
        store = self.filler.store
        store.give(self.filler.parts, self.pairs.memories, self.features)
        if not self._is_same_everywhere(self.features):
            raise DataError(
                f"feature cache {store.folder} is not the same for all processes; put it on a "
                "shared disk, or set data.feature_cache=null"
            )
        if self.features.filled:
            observer.on_message(
                f"{self.features.filled:,} teacher features read from {store.folder}"
            )

    def _is_same_everywhere(self, features: TeacherFeatures) -> bool:
        return (
            self.distributed.count == 1
            or len(set(self.distributed.all_gather(features.digest()))) == 1
        )
