"""The shipped starter kit: splits do not leak, files are whole, sources are named."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from starter.names import group_key, icon_name
from starter.sources import EMOJI_FAMILIES, ICON_FAMILIES, WIDER_FAMILIES
from tinyclip_edge.starter import SPLITS, kit_path, teacher_path
from tinyclip_edge.starter.kit import KitSample, read_split

KIT_BYTES = 40_000_000
UNSEEN_FAMILIES = {"twemoji", "ph"}
VAL_FAMILY = "streamline-emojis"


@pytest.fixture(scope="module")
def index() -> dict:
    return json.loads((kit_path() / "index.json").read_text())


@pytest.fixture(scope="module")
def splits() -> dict[str, list[KitSample]]:
    return {split: list(read_split(kit_path(), split)) for split in SPLITS}


@pytest.fixture(scope="module")
def digests(splits: dict[str, list[KitSample]]) -> dict[str, set[str]]:
    # Same encoder, same settings: equal pixels give equal bytes.
    return {
        name: {hashlib.sha256(s.webp).hexdigest() for s in samples}
        for name, samples in splits.items()
    }


def every(splits: dict[str, list[KitSample]]) -> Iterator[KitSample]:
    for samples in splits.values():
        yield from samples


def unseen(samples: list[KitSample]) -> list[KitSample]:
    return [s for s in samples if s.about["family"] != VAL_FAMILY]


def test_shards_are_the_ones_the_index_lists(index: dict) -> None:
    stored = {p.name for p in kit_path().glob("*.tar.gz")}
    assert stored == set(index["shards"])
    for name, entry in index["shards"].items():
        payload = (kit_path() / name).read_bytes()
        assert hashlib.sha256(payload).hexdigest() == entry["sha256"], name
        assert len(payload) < 8_000_000, name


def test_counts_match_the_index(index: dict, splits: dict[str, list[KitSample]]) -> None:
    for split, samples in splits.items():
        assert len(samples) == index["splits"][split]["samples"]
        families: dict[str, int] = defaultdict(int)
        for sample in samples:
            families[sample.about["family"]] += 1
        assert dict(families) == index["splits"][split]["families"]
    assert len(splits["train"]) > 20_000


def test_keys_are_unique_and_every_sample_has_a_caption(splits: dict[str, list[KitSample]]) -> None:
    keys = [s.key for s in every(splits)]
    assert len(keys) == len(set(keys))
    for sample in every(splits):
        assert sample.captions[0] == sample.concept
        assert all(line.strip() for line in sample.captions)


def test_unseen_concept_groups_are_not_in_training(splits: dict[str, list[KitSample]]) -> None:
    trained = {s.about["group_key"] for s in splits["train"]}
    tested = {s.about["group_key"] for s in splits["test_concepts"]}
    validation_groups = {s.about["group_key"] for s in unseen(splits["val"])}
    assert not trained & tested
    assert not trained & validation_groups
    assert not tested & validation_groups


def test_unseen_names_are_no_training_captions(splits: dict[str, list[KitSample]]) -> None:
    lines = {line.casefold() for s in splits["train"] for line in s.captions}
    parts = {part.strip() for line in lines for part in line.split(",")}
    names = {s.concept.casefold() for s in [*splits["test_concepts"], *unseen(splits["val"])]}
    assert not (lines | parts) & names


def test_unseen_names_are_no_training_keywords(splits: dict[str, list[KitSample]]) -> None:
    keywords = {k.casefold() for s in splits["train"] for k in s.about["keywords"]}
    names = {s.concept.casefold() for s in [*splits["test_concepts"], *unseen(splits["val"])]}
    assert not keywords & names


def test_style_test_holds_only_training_concepts(splits: dict[str, list[KitSample]]) -> None:
    trained = {s.concept for s in splits["train"]}
    assert {s.concept for s in splits["test_style"]} <= trained


def test_unseen_families_are_only_tested(splits: dict[str, list[KitSample]]) -> None:
    assert not UNSEEN_FAMILIES & {s.about["family"] for s in splits["train"]}
    assert not UNSEEN_FAMILIES & {s.about["family"] for s in splits["val"]}
    assert {s.about["family"] for s in splits["test_style"]} == UNSEEN_FAMILIES


def test_families_that_came_later_are_only_trained_on(splits: dict[str, list[KitSample]]) -> None:
    later = set(WIDER_FAMILIES)
    assert later <= {s.about["family"] for s in splits["train"]}
    for split in set(SPLITS) - {"train"}:
        assert not later & {s.about["family"] for s in splits[split]}


def test_style_sets_have_one_picture_per_concept(splits: dict[str, list[KitSample]]) -> None:
    for family in UNSEEN_FAMILIES:
        concepts = [s.concept for s in splits["test_style"] if s.about["family"] == family]
        assert len(concepts) == len(set(concepts)) > 500


def test_each_unseen_concept_has_one_canonical_picture(splits: dict[str, list[KitSample]]) -> None:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for sample in splits["test_concepts"]:
        counts[sample.about["kind"], sample.concept] += sample.about["canonical"]
    assert set(counts.values()) == {1}


def test_no_picture_is_in_two_splits(digests: dict[str, set[str]]) -> None:
    for name, mine in digests.items():
        for other in set(digests) - {name}:
            assert not mine & digests[other], (name, other)


def test_flags_are_never_unseen(splits: dict[str, list[KitSample]]) -> None:
    assert not any(s.about["flag"] for s in splits["test_concepts"])
    assert not any(s.about["flag"] for s in unseen(splits["val"]))
    assert any(s.about["flag"] for s in splits["test_style"])


def test_pictures_are_64_px(splits: dict[str, list[KitSample]]) -> None:
    for samples in splits.values():
        for sample in samples[:: max(1, len(samples) // 40)]:
            assert sample.pixels().shape == (64, 64, 3)


def test_every_family_is_attributed(splits: dict[str, list[KitSample]]) -> None:
    text = (kit_path().parent / "ATTRIBUTION.md").read_text(encoding="utf-8")
    used = {s.about["family"] for s in every(splits)}
    assert used <= {*EMOJI_FAMILIES, *ICON_FAMILIES, *WIDER_FAMILIES}
    for family in used:
        assert f"| `{family}` |" in text, family
    for name in ("MIT", "ISC", "Apache-2.0", "CC0-1.0", "Unicode-3.0", "Creative-Commons-BY"):
        assert (kit_path().parent / "licenses" / f"{name}.txt").stat().st_size > 300


def test_kit_with_teacher_stays_small() -> None:
    folders: list[Path] = [kit_path(), teacher_path()]
    size = sum(f.stat().st_size for folder in folders for f in folder.rglob("*") if f.is_file())
    assert size <= KIT_BYTES


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("arrow-left-bold", "arrow left"),
        ("cat-outline-rounded", "cat"),
        ("access-time-20-filled", "access time"),
        ("google-drive", None),
        ("bell-2", "bell"),
    ],
)
def test_icon_names_lose_their_style_words(raw: str, name: str | None) -> None:
    assert icon_name(raw) == name


def test_variants_of_a_concept_share_a_group() -> None:
    assert group_key("man running: facing right") == group_key("woman running") == "running"
    assert group_key("red heart") == group_key("heart outline") == "heart"
    assert group_key("left arrow") == group_key("arrow right")
    assert group_key("octopus") != group_key("squid")
