"""The arms of the natural-image benchmark, in order of importance, and their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from natural_profiles import COLOUR, FLIP, STUDENT_CROP, Profile

SEEDS = (0, 1, 2)
TUNING_SEED = 1000
INHERITED, RANDOM = (1e-4, 2.5e-4, 5e-4), (2.5e-4, 5e-4, 1e-3)  # three rates for every tuned arm
SMALL = (5e-4, 1e-3, 2e-3)  # higher rates for the 8.9 % student
STILL_RATES = (5e-4, 1e-3)  # for arms without augmentation
LONG = 3  # times the steps

AFFINITY = {"affinity": 1.0}
CONTRASTIVE = {"affinity": 0.0, "contrastive": 1.0, "student_logit_scale": "learned"}
RECIPE = {"affinity": 1.0, "feature": 1000.0}  # as in the shipped starter runs
FEATURE = {"affinity": 0.0, "feature": 1000.0}
MIXED = {"affinity": 1.0, "contrastive": 1.0}


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to make a student."""

    shape: str  # of the profile: half, tiny, wide, teacher, stages, masks
    plan: str | None  # of inheritance; None: random weights
    loss: dict[str, Any]
    rate_of: str = ""  # the arm whose tuned rate it uses; empty: its own
    long: bool = False

    @property
    def rates(self) -> tuple[float, ...]:
        if self.plan is None:
            return RANDOM
        return SMALL if self.shape == "tiny" else INHERITED


ARMS = {
    "both": Arm("half", "importance", AFFINITY),
    "scratch": Arm("half", None, CONTRASTIVE),
    "affinity": Arm("half", None, AFFINITY),
    "inherited": Arm("half", "importance", CONTRASTIVE),
    "tiny": Arm("tiny", "importance", AFFINITY),
    "full-scratch": Arm("teacher", None, CONTRASTIVE),
    "recipe": Arm("half", "importance", RECIPE, "both"),
    "recipe-long": Arm("half", "importance", RECIPE, "both", long=True),
    "tiny-recipe": Arm("tiny", "importance", RECIPE, "tiny"),
    "tiny-scratch": Arm("tiny", None, CONTRASTIVE, "scratch"),
    "feature": Arm("half", "importance", FEATURE, "both"),
    "affinity+contrastive": Arm("half", "importance", MIXED, "both"),
    "published": Arm("half", "published", AFFINITY, "both"),
    "evenly": Arm("half", "evenly", AFFINITY, "both"),
    "wide": Arm("wide", "published", AFFINITY, "both"),
    "masks": Arm("masks", "masks", AFFINITY, "both"),
    "three-stages": Arm("stages", "importance", AFFINITY, "both"),
    "one-stage": Arm("last", "importance", AFFINITY, "both"),
}
STILL_ARMS = {
    "still-affinity": Arm("tiny", "importance", AFFINITY),
    "still-contrastive": Arm("tiny", "importance", CONTRASTIVE),
    "still-feature": Arm("tiny", "importance", FEATURE),
    "still-affinity+feature": Arm("tiny", "importance", RECIPE),
    "still-affinity+contrastive": Arm("tiny", "importance", MIXED),
    "still-all": Arm("tiny", "importance", RECIPE | MIXED),
    "still-random-affinity": Arm("tiny", None, AFFINITY),
    "still-random-contrastive": Arm("tiny", None, CONTRASTIVE),
    "still-published": Arm("tiny", "published", AFFINITY, "still-affinity"),
    "still-evenly": Arm("tiny", "evenly", AFFINITY, "still-affinity"),
}  # no augmentation, so that the teacher sees each picture once: two CPU cores can afford that
TUNED = [name for name, arm in ARMS.items() if not arm.rate_of]
MAIN = ["both", "scratch", "tiny", "full-scratch", "affinity", "inherited"]
ONCE = ["masks", "three-stages", "one-stage", "recipe"]
LAST = ["affinity+contrastive", "feature", "published", "evenly", "tiny-recipe", "tiny-scratch",
        "wide", "recipe-long"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """One run."""

    arm: str
    seed: int
    lr: float | None = None  # None: the best of the tuning runs

    @property
    def tuning(self) -> bool:
        return self.lr is not None

    @property
    def name(self) -> str:
        return f"{self.arm}-lr{self.lr:g}-tuning" if self.lr else f"{self.arm}-seed{self.seed}"


def arm_of(job: Job) -> Arm:
    return (ARMS | STILL_ARMS)[job.arm]


def rate_arm(arm: str) -> str:
    """Return the arm whose tuning runs determine an arm's learning rate."""
    return (ARMS | STILL_ARMS)[arm].rate_of or arm


def tuning_jobs(arm: str) -> list[Job]:
    rates = STILL_RATES if arm in STILL_ARMS else ARMS[arm].rates
    return [Job(arm, TUNING_SEED, lr) for lr in rates]


def still_jobs() -> list[Job]:
    """Return the tuning runs and all seeds of the arms without augmentation."""
    tuned = [name for name, arm in STILL_ARMS.items() if not arm.rate_of]
    tuning = [job for name in tuned for job in tuning_jobs(name)]
    return tuning + [Job(name, seed) for seed in SEEDS for name in STILL_ARMS]


def all_jobs() -> list[Job]:
    """Return tuning runs, then the arms in order of importance."""
    tuning = [job for arm in MAIN for job in tuning_jobs(arm)]
    main = [[Job(arm, seed) for arm in MAIN] for seed in SEEDS]
    once, last = ([Job(arm, SEEDS[0]) for arm in arms] for arms in (ONCE, LAST))
    return [*tuning, *main[0], *once, *main[1], *main[2], *last]


def steps_of(job: Job, profile: Profile) -> int:
    if job.tuning:
        return profile.tuning_steps
    return profile.steps * (LONG if arm_of(job).long else 1)


def run_config(job: Job, profile: Profile, lr: float, places: dict[str, str]) -> dict[str, Any]:
    """Return the run configuration; ``places`` has teacher, train, val, precision and eval_every.

    With a place for the teacher's features (``cache``), pictures are not augmented.
    """
    arm, steps = arm_of(job), steps_of(job, profile)
    config: dict[str, Any] = {
        "name": "natural",
        "seed": job.seed,
        "teacher": {"model": places["teacher"]},
        "loss": arm.loss,
        "data": {
            "train": places["train"],
            "val": places["val"],
            "val_limit": 5000,
            "workers": 3,
            **_pictures(places),
        },
        "optim": {
            "lr": lr, "batch_size": profile.batch, "steps": steps, "warmup": 0.06,
            "weight_decay": 0.1, "final_lr_ratio": 0.02,
        },
        "run": {
            "precision": places["precision"],
            "log_every": 50,
            "eval_every": 0 if job.tuning else int(places["eval_every"]),
            "keep": 1,
        },
    }  # fmt: skip
    return config | _student_config(arm, profile, steps)


def _pictures(places: dict[str, str]) -> dict[str, Any]:
    if "cache" in places:
        return {"feature_cache": places["cache"]}
    return {
        "augment_crop": list(STUDENT_CROP),
        "augment_flip": FLIP,
        "augment_colour": COLOUR,
    }


def _student_config(arm: Arm, profile: Profile, steps: int) -> dict[str, Any]:
    if arm.shape == "masks":
        rate = max(0.02, 60 / steps)
        return {
            "student": {"keep": profile.keep},
            "inherit": {"method": "masks"},
            "masks": {"lr": rate, "lambda_lr": rate, "warmup": 0.7, "prune": 0.35, "extra": 0.1},
        }
    inherit = {"method": "none"} if arm.plan is None else {"method": "uniform", "plan": arm.plan}
    if arm.shape == "stages":
        parts = (steps // 5, steps * 3 // 10, steps // 2)
        stages = [
            {"student": shape, "steps": part}
            for shape, part in zip(profile.stages, parts, strict=True)
        ]
        return {"inherit": inherit, "stages": stages}
    shapes = {
        "half": profile.half,
        "tiny": profile.tiny,
        "wide": profile.wide,
        "last": profile.stages[-1],
        "teacher": {key: {k: v for k, v in profile.teacher[key].items() if k in SIZES}
                    for key in ("vision_cfg", "text_cfg")},
    }  # fmt: skip
    return {"student": {"model": shapes[arm.shape]}, "inherit": inherit}


SIZES = ("width", "layers", "head_width", "heads", "mlp_ratio")
