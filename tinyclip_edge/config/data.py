"""Section ``data``: pictures and texts for training and validation."""

from __future__ import annotations

from pydantic import Field, model_validator

from tinyclip_edge.config.limits import LimitsConfig
from tinyclip_edge.config.section import Section
from tinyclip_edge.config.source_options import ColumnsConfig, SourceOptions
from tinyclip_edge.config.sources import Patterns, SourceConfig, TextsSource


class DataConfig(Section):
    """Pictures and texts for training and validation."""

    train: Patterns | None = Field(
        default=None,
        min_length=1,
        description="Pairs. starter:train; shards (.tar, .tar.gz): path, glob, {000..009}, "
        "http(s):// or pipe:COMMAND; a table (.csv, .tsv, .jsonl) of image paths and captions; "
        "COCO captions (.json); an image folder with captions (NAME.txt or metadata.jsonl); a "
        ".selection of `tinyclip-edge select`; or a list of these.",
    )
    images: Patterns | None = Field(
        default=None,
        min_length=1,
        description="Instead of train: pictures without captions, in any form of train (captions "
        "there are ignored), drawn independently of texts.",
    )
    texts: TextsSource | None = Field(
        default=None,
        description="With images: a file with one text per line, or a list of such files; or "
        "labels in templates. null: no texts, so that only loss.feature of pictures can be used.",
    )
    mix: list[SourceConfig] = Field(
        default_factory=list,
        description="Instead of train or images: sources that share every batch in proportion to "
        "their weights; all are in memory or all are streamed.",
    )
    val: Patterns | None = Field(
        default=None,
        description=("Pairs for the evaluation during the run, in any form of train; null: none."),
    )
    val_images: Patterns | None = Field(
        default=None,
        min_length=1,
        description="Instead of val: pictures without captions, on which the student is compared "
        "with the teacher; accuracy too, if their folders are named after labels of val_texts.",
    )
    val_texts: TextsSource | None = Field(
        default=None, description="Texts for val_images, in any form of texts; null: texts."
    )
    val_limit: int = Field(
        default=2000, ge=2, description="Largest number of validation pairs, pictures and texts."
    )
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
            "including streamed ones. {settings} in its name is replaced by a hash of "
            "teachers, preprocessing and views, so that runs that differ in them have "
            "folders of their own. null: a cache for this run only."
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

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        """The sources that are trained on."""
        if self.mix:
            return tuple(self.mix)
        return (SourceConfig(pairs=self.train, images=self.images, texts=self.texts),)

    @model_validator(mode="after")
    def _check_validation(self) -> DataConfig:
        if self.val is not None and self.val_images is not None:
            raise ValueError(
                "val (pairs) and val_images (without captions) exclude each other; drop one"
            )
        if self.val_texts is not None and self.val_images is None:
            raise ValueError("val_texts are compared with val_images; set these, or drop val_texts")
        if self.val_images is not None and not (self.val_texts or self.texts):
            raise ValueError("val_images needs texts to compare them with; set val_texts")
        return self

    @model_validator(mode="after")
    def _check_sources(self) -> DataConfig:
        forms = [name for name in ("train", "images", "mix") if getattr(self, name)]
        if not forms:
            raise ValueError("nothing to train on: set train to pairs, or images and texts")
        if len(forms) > 1:
            raise ValueError(
                f"{forms[0]} and {forms[1]} exclude each other; put all sources of a mixture in mix"
            )
        for number, source in enumerate(self.mix, 1):
            if not source.is_paired and source.texts is None:
                raise ValueError(f"mix[{number}] has images without texts; add texts to it")
        if self.texts is not None and self.images is None:
            raise ValueError("texts are drawn independently of images; set images, or drop texts")
        return self

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
