"""Decide which pictures are shipped and which split each belongs to."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

from starter.names import FILLER
from starter.sources import (
    EMOJI_FAMILIES,
    ICON_FAMILIES,
    WIDER_FAMILIES,
    Picture,
)

SEED = 20
ICON_PICTURES = 17_500
UNSEEN_EMOJI = 0.15  # share of the concept groups with an emoji (never flags)
UNSEEN_ICON = 0.08  # share of the groups that only icons draw
VAL_UNSEEN = 0.04
TEST_STYLES = ("twemoji", "ph")
VAL_STYLE = "streamline-emojis"
UNSEEN_STYLES = ("noto", "twemoji", "emojione", "fluent-emoji-flat")  # used for unseen emoji
MAX_UNSEEN_GROUP = 60  # pictures
MAX_TEST_ICONS = 2  # pictures of an unseen icon name
SINGLES_PER_WORD = 14  # for breadth: names with the same word that only one family draws
# Styles without colour or with few emoji, dropped from training to make room for more concepts.
SPARED_STYLES = ("emojione-monotone", "fluent-emoji-high-contrast", "fxemoji")
WIDER_PICTURES = 5_000
WIDER_PER_WORD = 5  # names with the same word, including those chosen first
SECOND_DRAWINGS = ("temaki", "lucide-lab", "guidance")  # things, not signs of a user interface
# Order in which canonical pictures are chosen and duplicates are resolved.
RANK = {family: i for i, family in enumerate(EMOJI_FAMILIES + ICON_FAMILIES + WIDER_FAMILIES)}


def choose_icons(pictures: list[Picture], seed: int = SEED) -> list[Picture]:
    """Return icons that several families draw, then those of one, chosen for breadth of words."""
    families = Counter(p.concept for p in pictures if p.family not in TEST_STYLES)
    test_pictures = [p for p in pictures if p.family in TEST_STYLES and families[p.concept] > 0]
    icons = [p for p in pictures if families[p.concept] > 1 and p.family not in TEST_STYLES]
    singles = [p for p in pictures if families[p.concept] == 1 and p.family not in TEST_STYLES]
    rng = random.Random(seed)
    rng.shuffle(singles)
    singles.sort(key=lambda p: (min(len(p.concept.split()), 3), p.family != "game-icons"))
    uses: Counter[str] = Counter(w for p in icons for w in p.concept.split())
    word_counts: Counter[str] = Counter()
    for picture in singles:
        words = [w for w in picture.concept.split() if w not in FILLER]
        words_recur = (
            len(words) == 1 or all(uses[w] for w in words) or picture.family == "game-icons"
        )
        if len(icons) >= ICON_PICTURES or not words_recur or "off" in words:
            continue
        if max((word_counts[w] for w in words), default=99) < SINGLES_PER_WORD:
            word_counts.update(words)
            icons.append(picture)
    return icons + test_pictures


def assign_groups(pictures: list[Picture], seed: int = SEED) -> dict[str, str]:
    """Return each concept group's split: train, val or test_concepts; flags are always train."""
    emoji = {p.group_key for p in pictures if p.kind == "emoji"}
    flags = {p.group_key for p in pictures if p.flag or "flag" in p.group_key.split()}
    groups = sorted({p.group_key for p in pictures})
    random.Random(seed).shuffle(groups)
    split = dict.fromkeys(groups, "train")
    size = Counter(p.group_key for p in pictures)
    for pool, share in (
        ([g for g in groups if g in emoji and g not in flags], UNSEEN_EMOJI),
        ([g for g in groups if g not in emoji and g not in flags], UNSEEN_ICON),
    ):
        # Holding out huge groups ("arrow", "square") would cost too many training pictures.
        smaller = [g for g in pool if size[g] <= MAX_UNSEEN_GROUP]
        tests, vals = round(share * len(smaller)), round(VAL_UNSEEN * len(smaller))
        split.update(dict.fromkeys(smaller[:tests], "test_concepts"))
        split.update(dict.fromkeys(smaller[tests : tests + vals], "val"))
    return split


def place(pictures: list[Picture], groups: dict[str, str]) -> list[Picture]:
    """Set each picture's split and drop those that no split uses."""
    train_concepts = {
        p.concept
        for p in pictures
        if groups[p.group_key] == "train" and p.family not in (*TEST_STYLES, VAL_STYLE)
    }
    placed = []
    for picture in pictures:
        side = groups[picture.group_key]
        if side == "train":
            if picture.family in TEST_STYLES:
                side = "test_style"
            elif picture.family == VAL_STYLE:
                side = "val"
            if side != "train" and picture.concept not in train_concepts:
                continue
        elif picture.kind == "emoji" and picture.family not in UNSEEN_STYLES:
            continue
        elif side == "val" and picture.family in TEST_STYLES:
            continue  # tuning must not see the test styles
        picture.split = side
        placed.append(picture)
    return placed


def spare_styles(placed: list[Picture]) -> list[Picture]:
    """Drop training pictures of spared styles, except for concepts that no other style draws."""
    concepts_elsewhere = {
        p.concept for p in placed if p.split == "train" and p.family not in SPARED_STYLES
    }
    return [
        p
        for p in placed
        if p.split != "train"
        or p.family not in SPARED_STYLES
        or p.concept not in concepts_elsewhere
    ]


def widen(
    placed: list[Picture], groups: dict[str, str], candidates: list[Picture], seed: int = SEED
) -> list[Picture]:
    """Return training pictures of further concepts, none of a held-out group, rare words first.

    ``placed`` and the evaluation sets are unchanged.
    """
    train = [p for p in placed if p.split == "train"]
    names, keys = {p.concept for p in train}, {p.key for p in placed}
    uses: Counter[str] = Counter(w for name in names for w in name.split())
    rng = random.Random(seed)
    open_to = [
        p for p in candidates if groups.get(p.group_key, "train") == "train" and p.key not in keys
    ]
    rng.shuffle(open_to)
    open_to.sort(key=lambda p: (min(len(p.concept.split()), 3), p.family not in WIDER_FAMILIES))
    added: list[Picture] = []
    for limit in (1, 2, WIDER_PER_WORD):  # rare words before common ones
        for picture in open_to:
            words = [w for w in picture.concept.split() if w not in FILLER]
            again = picture.concept in names
            if again and (picture.family not in SECOND_DRAWINGS or picture.wider):
                continue
            rare = min((uses[w] for w in words), default=limit) < limit
            if len(added) < WIDER_PICTURES and (again or rare):
                picture.wider = True
                names.add(picture.concept)
                uses.update(words)
                added.append(picture)
    return added


def mark_canonical(pictures: list[Picture]) -> list[Picture]:
    """Mark one picture per concept and evaluation set; thin out the unseen icons.

    In ``test_style`` and the seen part of ``val`` every concept has one picture per kind already.
    """
    by_name: dict[tuple[str, str, str], list[Picture]] = defaultdict(list)
    for picture in pictures:
        if picture.split != "train":
            unseen = picture.split != "test_style" and picture.family != VAL_STYLE
            part = picture.split + (" unseen" if unseen else " seen")
            by_name[part, picture.kind, picture.concept].append(picture)
    dropped: set[str] = set()
    for (part, kind, _), same in by_name.items():
        same.sort(key=lambda p: RANK[p.family])
        same[0].canonical = True
        if kind == "icon" and part.endswith("unseen"):
            dropped.update(p.key for p in same[MAX_TEST_ICONS:])
    return [p for p in pictures if p.key not in dropped]
