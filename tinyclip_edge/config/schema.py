"""Schema of a distillation run; every field states its unit."""

from __future__ import annotations

from pydantic import Field, model_validator

from tinyclip_edge.config.limits import LimitsConfig
from tinyclip_edge.config.loss import LossConfig
from tinyclip_edge.config.optim import OptimConfig
from tinyclip_edge.config.running import RunSection
from tinyclip_edge.config.section import Section
from tinyclip_edge.config.shrink import InheritConfig, MasksConfig, StageConfig, StudentConfig
from tinyclip_edge.config.source_options import ColumnsConfig, SourceOptions


class EnsembleMemberConfig(Section):
    """An additional teacher."""

    model: str = Field(min_length=1, description="As teacher.model.")
    pretrained: str | None = Field(default=None, description="As teacher.pretrained.")
    weight: float = Field(
        default=1.0,
        gt=0,
        description="Its weight in the mean, see loss.affinity_mean; the first teacher has 1.",
    )
    temperature: float = Field(default=1.0, gt=0, description="As teacher.temperature.")


class TeacherConfig(Section):
    """The model to imitate."""

    model: str = Field(
        min_length=1,
        description="starter-teacher, an open_clip name, hf-hub:NAME or the folder of a model.",
    )
    pretrained: str | None = Field(
        default=None,
        description=(
            "open_clip weight tag, such as laion2b_s34b_b79k; null when teacher.model "
            "already implies its weights."
        ),
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="Divides this teacher's logits; above 1 its affinities are softer.",
    )
    ensemble: list[EnsembleMemberConfig] = Field(
        default_factory=list,
        description="More teachers: the student imitates the weighted mean of all their logits, or "
        "of their probabilities, and inherits from the first alone.",
    )


class DataConfig(Section):
    """Pairs for training and validation."""

    train: str | list[str] = Field(
        min_length=1,
        description="starter:train; shards (.tar, .tar.gz): path, glob, {000..009}, http(s):// or "
        "pipe:COMMAND; a table (.csv, .tsv, .jsonl) of image paths and captions; COCO "
        "captions (.json); an image folder with captions (NAME.txt or metadata.jsonl); a "
        ".selection of `tinyclip-edge select`; or a list of these.",
    )
    val: str | list[str] | None = Field(
        default=None,
        description=("Pairs for the evaluation during the run, in any form of train; null: none."),
    )
    val_limit: int = Field(default=2000, ge=2, description="Largest number of validation pairs.")
    columns: ColumnsConfig = Field(
        default_factory=ColumnsConfig,
        description="Columns of tables (.csv, .tsv, .jsonl), for both train and val.",
    )
    delimiter: str | None = Field(
        default=None,
        pattern=r'^[^"\r\n]$',
        description=(
            "Character between the columns of .csv and .tsv tables; null: a tab if the "
            "first line has one, otherwise a comma. With a tab, quotes are ordinary "
            "characters; with any other delimiter, cells may be quoted."
        ),
    )
    batch_distinct: bool = Field(
        default=True,
        description="No two pairs of a batch share a concept (they would be false negatives).",
    )
    cache_teacher: bool = Field(
        default=True,
        description="Cache the teacher's features of pictures and captions.",
    )
    feature_cache: str | None = Field(
        default=None,
        description=(
            "Folder of a feature cache: missing parts are computed before the first "
            "step of a run longer than an epoch; runs with the same teachers share it, "
            "including streamed ones. null: a cache of this run alone."
        ),
    )
    views: int = Field(
        default=0,
        ge=0,
        le=1024,
        description=(
            "Random crops of each picture, the same in every run, one of which is used "
            "in a batch; 0: only the teacher's centre crop."
        ),
    )
    crop_scale: tuple[float, float] = Field(
        default=(0.9, 1.0),
        strict=False,
        description="Smallest and largest share of a picture's area in a crop of views.",
    )
    augment_crop: tuple[float, float] | None = Field(
        default=None,
        strict=False,
        description=(
            "Smallest and largest share of a picture's area in random crops that differ "
            "at every step, the same for student and teacher; image features are not "
            "cached. null: no such crops."
        ),
    )
    augment_flip: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description=("With augment_crop: probability of a horizontal flip."),
    )
    augment_colour: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="With augment_crop: largest change of brightness, contrast and saturation.",
    )
    allow_pipes: bool = Field(
        default=False,
        description=(
            "Allow train and val to contain pipe:COMMAND, which runs the command in a shell."
        ),
    )
    workers: int = Field(default=2, ge=1, le=256, description="Threads that decode images.")
    stream_groups: int = Field(
        default=1,
        ge=1,
        description=(
            "Groups among which the shards of a stream are divided. Each group shuffles "
            "its own shards through a buffer of 2048 encoded pairs and fills its share "
            "of every batch; concepts are distinct only within such a share. A process "
            "reads only the groups of its rows. Use the number of processes or a "
            "multiple, at most one per shard. 1: every process reads everything."
        ),
    )
    memory_gb: float = Field(
        default=4.0,
        ge=0,
        description=(
            "Gigabytes (1e9 bytes) for decoded pictures, 3 * size^2 bytes each, or for "
            "encoded pictures with views; a larger source is streamed, and its teacher "
            "features are cached only by data.feature_cache. 0: always stream."
        ),
    )
    limits: LimitsConfig = Field(
        default_factory=LimitsConfig, description="Sizes above which shards and tables are refused."
    )

    @property
    def source_options(self) -> SourceOptions:
        """How ``train`` and ``val`` are read."""
        return SourceOptions(self.allow_pipes, self.limits, self.columns, self.delimiter)

    @model_validator(mode="after")
    def _check_crops(self) -> DataConfig:
        for name in ("crop_scale", "augment_crop"):
            low, high = getattr(self, name) or (1.0, 1.0)
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name} must be two shares, 0 < smallest <= largest <= 1")
        if self.augment_crop is None:
            if self.augment_flip or self.augment_colour:
                raise ValueError("augment_flip and augment_colour need augment_crop")
            return self
        for name in ("views", "feature_cache"):
            if getattr(self, name):
                raise ValueError(
                    f"{name} uses fixed crops and augment_crop uses new ones: set one of them to "
                    + ("0" if name == "views" else "null")
                )
        return self


class RunConfig(Section):
    """One distillation run."""

    name: str = Field(
        default="run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the run and of its folder under runs/.",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="Fixes random weights and the data order."
    )
    teacher: TeacherConfig = Field(description="The model to imitate.")
    student: StudentConfig = Field(default_factory=StudentConfig, description="The model to train.")
    inherit: InheritConfig = Field(
        default_factory=InheritConfig, description="What the student inherits from the teacher."
    )
    stages: list[StageConfig] = Field(
        default_factory=list,
        description=(
            "Stages in which the student shrinks, each starting from the previous one; "
            "none: a single stage to student.model or student.keep."
        ),
    )
    loss: LossConfig = Field(default_factory=LossConfig, description="Loss terms.")
    data: DataConfig = Field(description="Image-text pairs.")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="Optimizer and schedule.")
    masks: MasksConfig = Field(
        default_factory=MasksConfig,
        description="How masks are learnt if inherit.method is masks.",
    )
    run: RunSection = Field(default_factory=RunSection, description="Device, logging, saving.")

    @model_validator(mode="after")
    def _check_student(self) -> RunConfig:
        forms = [name for name in ("model", "keep") if getattr(self.student, name) is not None]
        masked = self.student.keep is not None or any(s.keep is not None for s in self.stages)
        if self.stages and forms:
            raise ValueError(
                f"stages and student.{forms[0]} exclude each other; set student.{forms[0]}=null"
            )
        if not self.stages and len(forms) != 1:
            problem = "exclude each other" if forms else "are missing: set one of them, or stages"
            raise ValueError(f"student.model and student.keep {problem}")
        if masked and self.inherit.method != "masks":
            raise ValueError("keep needs masks; set inherit.method=masks")
        if self.stages and not masked and self.inherit.method == "masks":
            raise ValueError(
                "no stage has masks: set keep in one of them, or inherit.method=uniform"
            )
        if self.student.uniform_shapes and self.inherit.method != "masks":
            raise ValueError(
                "student.uniform_shapes only applies to masks; set inherit.method=masks"
            )
        fresh = [tower for tower, mode in self.inherit.modes.items() if mode == "fresh"]
        if fresh and len(self.stages) > 1:
            raise ValueError(
                f"inherit.{fresh[0]} is fresh, so each stage would start with a random {fresh[0]} "
                "tower; use inherited, or one stage"
            )
        if self.inherit.method == "none" and len(self.stages) > 1:
            raise ValueError(
                "inherit.method is none, so each stage would start from random weights; use uniform"
            )
        return self

    @model_validator(mode="after")
    def _check_mapping(self) -> RunConfig:
        if self.inherit.is_mapped and self.inherit.method != "uniform":
            raise ValueError(
                f"inherit.plan mapped starts from selected weights, and inherit.method is "
                f"{self.inherit.method}; set it to uniform, or another plan"
            )
        if self.inherit.is_mapped and self.stages:
            raise ValueError(
                "inherit.plan mapped learns one mapping, for a run without stages; set "
                "student.model instead, or another plan"
            )
        return self

    @model_validator(mode="after")
    def _check_stages(self) -> RunConfig:
        keep_before: float | None = None
        for number, stage in enumerate(self.stages, 1):
            if stage.keep is None:
                if keep_before is not None:
                    raise ValueError(
                        f"stage {number} has a fixed shape after a stage with masks; put it "
                        "before them"
                    )
                continue
            if keep_before is not None and stage.keep >= keep_before:
                raise ValueError(
                    f"stage {number} keeps {stage.keep:g}, the previous one {keep_before:g}; a "
                    "stage cannot grow: order them from large to small"
                )
            keep_before = stage.keep
        return self
