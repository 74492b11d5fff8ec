"""Which pictures the kit's builder takes, on hand-made ones."""

from __future__ import annotations

from starter.names import group_key
from starter.sources import Picture
from starter.splits import WIDER_PER_WORD, spare_styles, widen


def picture(concept: str, family: str, split: str = "train", kind: str = "icon") -> Picture:
    key = f"{family}-{concept.replace(' ', '-')}"
    return Picture(key, "", concept, kind, family, group_key=group_key(concept), split=split)


def widened(placed: list[Picture], candidates: list[Picture]) -> set[str]:
    groups = {p.group_key: p.split for p in placed}
    return {p.key for p in widen(placed, groups, candidates)}


def test_unseen_groups_are_never_widened() -> None:
    placed = [picture("cat", "mdi"), picture("syringe", "mdi", "test_concepts")]
    candidates = [picture("syringe", "temaki"), picture("syringes", "temaki"),
                  picture("bollard", "temaki")]  # fmt: skip
    assert widened(placed, candidates) == {"temaki-bollard"}


def test_second_drawings_come_from_families_of_things_alone() -> None:
    placed = [picture("cat", "mdi")]
    candidates = [picture("cat", "temaki"), picture("cat", "hugeicons"), picture("cat", "mdi")]
    assert widened(placed, candidates) == {"temaki-cat"}


def test_a_word_is_not_repeated_without_end() -> None:
    names = [f"file {word}" for word in ("a", "b", "c", "d", "e", "f", "g", "h")]
    placed = [picture(f"{name} {word}", "mdi") for word in ("x", "y") for name in names]
    # Every word of these stands in enough names already.
    assert len(names) > WIDER_PER_WORD
    assert widened(placed, [picture("file x y", "temaki")]) == set()
    assert widened(placed, [picture("file lion", "temaki")]) == {"temaki-file-lion"}


def test_spared_styles_stay_where_nobody_else_draws_and_in_the_tests() -> None:
    cat = picture("cat", "noto", kind="emoji")
    again = picture("cat", "fxemoji", kind="emoji")
    alone = picture("owl", "fxemoji", kind="emoji")
    tested = picture("yak", "fxemoji", "test_concepts", kind="emoji")
    assert spare_styles([cat, again, alone, tested]) == [cat, alone, tested]
