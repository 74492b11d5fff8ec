"""Read pictograms and their names out of npm packages, without any network."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from starter.names import group_key, icon_name, slug

EMOJI_FAMILIES = (
    "noto", "noto-v1", "emojione", "fluent-emoji-flat", "fluent-emoji", "fxemoji",
    "emojione-monotone", "fluent-emoji-high-contrast", "streamline-emojis", "twemoji",
)  # fmt: skip
ICON_FAMILIES = (
    "tabler", "lucide", "mdi", "material-symbols", "fluent", "carbon", "game-icons", "healthicons",
    "icon-park", "solar", "streamline-color", "flat-color-icons", "mingcute", "iconoir", "ion",
    "bi", "fa6-solid", "maki", "medical-icon", "ph",
)  # fmt: skip
# For training only: added after the tests' pictures had been chosen.
WIDER_FAMILIES = (
    "temaki", "lucide-lab", "guidance", "streamline-ultimate", "streamline-freehand", "hugeicons",
)  # fmt: skip
# Style suffixes of additional drawings in families whose main drawings have none.
SKIPPED_SUFFIXES = ("-sharp", "-outline-sharp", "-rounded", "-outline-rounded", "-24px", "-11")
# fmt: off
DULL_CATEGORIES = frozenset(
    [
        "brand", "logo", "others", "base", "tools", "ui-actions", "operate", "other",
        "organization", "actions", "planning", "enterprise", "text", "communicate", "images",
        "files", "files-folders", "edit", "abstract", "components",
    ]
)
# fmt: on


@dataclass(slots=True)
class Picture:
    """One drawing: its SVG or PNG and the metadata of its sample's JSON."""

    key: str
    svg: str | bytes  # bytes: a PNG
    concept: str
    kind: str
    family: str
    group: str | None = None
    flag: bool = False
    keywords: list[str] = field(default_factory=list)
    group_key: str = ""
    split: str = "train"
    canonical: bool = False
    wider: bool = False  # added for training after the tests had been chosen


def _read(path: Path) -> Any:  # noqa: ANN401
    return json.loads(path.read_text(encoding="utf-8"))


def _family(packages: Path, family: str) -> dict[str, Any]:
    icons: dict[str, Any] = _read(packages / "@iconify-json" / family / "icons.json")
    return icons


def _svg(icons: dict[str, Any], name: str) -> str:
    icon = icons["icons"][name]
    box = [icon.get(k, icons.get(k, d)) for k, d in (("left", 0), ("top", 0))]
    width, height = (icon.get(k, icons.get(k, 16)) for k in ("width", "height"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box[0]} {box[1]} {width} {height}" width="{width}" height="{height}" '
        f'color="#000">{icon["body"]}</svg>'
    )


def _hex_code(code: str) -> str:
    """Code points without the variation selector, which only some packages write."""
    return "-".join(c for c in code.lower().split("-") if c != "fe0f")


@dataclass(slots=True)
class EmojiTable:
    """Unicode's emoji concepts (base forms) and the ways packages spell them."""

    rows: dict[str, dict[str, Any]]
    groups: dict[str, str]
    by_slug: dict[str, str]

    @classmethod
    def load(cls, packages: Path) -> EmojiTable:
        """Read emojibase; keys are code points such as ``1f419``."""
        base = packages / "emojibase-data"
        groups = _read(base / "meta" / "groups.json")["groups"]
        rows = {
            _hex_code(row["hexcode"]): row
            for row in _read(base / "en" / "data.json")
            if row.get("group") is not None and groups[str(row["group"])] != "component"
        }
        table = cls(rows, groups, {})
        for hexcode, row in rows.items():
            table.by_slug.setdefault(slug(row["label"]), hexcode)
        for family in ("noto", "twemoji", "fluent-emoji-flat"):
            chars = _read(packages / "@iconify-json" / family / "chars.json")
            for code, name in chars.items():
                if _hex_code(code) in rows:
                    table.by_slug.setdefault(name, _hex_code(code))
        for sets in ("joypixels", "github", "iamcal", "emojibase"):
            for code, names in _read(base / "en" / "shortcodes" / f"{sets}.json").items():
                for name in [names] if isinstance(names, str) else names:
                    if _hex_code(code) in rows:
                        table.by_slug.setdefault(slug(name), _hex_code(code))
        return table


FXEMOJI_EXTRA = {
    "heartblue": "blue-heart", "heartgreen": "green-heart", "heartyellow": "yellow-heart",
    "heartpurple": "purple-heart", "redheart": "red-heart",
    "grinsweat": "grinning-face-with-sweat", "greatbritainflag": "flag-united-kingdom",
    "franceflag": "flag-france", "japanflag": "flag-japan", "italianflag": "flag-italy",
    "spanishflag": "flag-spain", "russianflag": "flag-russia", "chineseflag": "flag-china",
    "koreaflag": "flag-south-korea", "hearteyes": "smiling-face-with-heart-eyes",
    "honeybee": "honeybee", "aubergine": "eggplant", "trafficlight": "horizontal-traffic-light",
    "father-christmas": "santa-claus", "fatherchristmas": "santa-claus", "bunny": "rabbit-face",
    "grapes": "grapes", "redapple": "red-apple", "bug": "bug", "earofmaize": "ear-of-corn",
    "hocho": "kitchen-knife", "poo": "pile-of-poo", "toykotower": "tokyo-tower",
    "policecar": "police-car", "twobuttonmouse": "computer-mouse", "clap": "clapping-hands",
    "flexbicep": "flexed-biceps", "guitarra": "guitar", "heels": "high-heeled-shoe",
    "moyai": "moai", "candy": "candy", "racecar": "racing-car", "speaker": "speaker-low-volume",
    "studiomic": "studio-microphone", "wineglass": "wine-glass", "beermug": "beer-mug",
    "icecream": "ice-cream", "bear": "bear",
}  # fmt: skip


def _hexcodes(
    packages: Path, family: str, icons: dict[str, Any], table: EmojiTable
) -> dict[str, str]:
    """Code point -> icon name in one emoji family."""
    source = {"fluent-emoji": "fluent-emoji-flat"}.get(family, family)
    names_by_code: dict[str, str] = {}
    chars = packages / "@iconify-json" / source / "chars.json"
    if chars.exists():
        for code, name in _read(chars).items():
            names_by_code.setdefault(_hex_code(code), name)
    squashed = (
        {k.replace("-", ""): v for k, v in table.by_slug.items()} if family == "fxemoji" else {}
    )
    names = {n: n for n in icons["icons"]}
    names.update(
        {a: v["parent"] for a, v in icons.get("aliases", {}).items() if set(v) == {"parent"}}
    )
    for alias, name in names.items():
        spelling = alias.removesuffix("-1") if family == "streamline-emojis" else alias
        spelling = spelling.replace("flag-for-flag-", "flag-").replace("flag-for-", "flag-")
        bare = spelling.removeprefix("black").removeprefix("white").removesuffix("symbol")
        spellings = (
            spelling,
            "flag-" + spelling,
            spelling.removesuffix("-face"),
            FXEMOJI_EXTRA.get(spelling, ""),
        )
        codes = [table.by_slug.get(s) for s in spellings] + [
            squashed.get(spelling),
            squashed.get(bare),
        ]
        code = next((c for c in codes if c), None)
        if code:
            names_by_code.setdefault(code, name)
    return {c: n for c, n in names_by_code.items() if c in table.rows and n in icons["icons"]}


def emoji_pictures(packages: Path) -> Iterator[Picture]:
    """Every base-form emoji of every family, matched to its Unicode concept by code point."""
    table = EmojiTable.load(packages)
    for family in EMOJI_FAMILIES:
        icons = _family(packages, family)
        for code, name in sorted(_hexcodes(packages, family, icons, table).items()):
            row = table.rows[code]
            yield _emoji_picture(family, code, _svg(icons, name), row, table)
        if family == "noto":
            yield from _noto_flags(packages, table)


def _emoji_picture(
    family: str, code: str, svg: str | bytes, row: dict[str, Any], table: EmojiTable
) -> Picture:
    label = row["label"].replace("’", "'")
    group = table.groups[str(row["group"])]
    return Picture(
        key=f"{family}-{code}",
        svg=svg,
        concept=label.lower(),
        kind="emoji",
        family=family,
        group=group,
        flag=group == "flags",
        keywords=[t.lower() for t in row.get("tags", [])][:10],
        group_key=group_key(label),
    )


def _noto_flags(packages: Path, table: EmojiTable) -> Iterator[Picture]:
    """Noto's flags, which its SVG package lacks, as 64 px PNGs of emoji-datasource-google."""
    folder = packages / "emoji-datasource-google" / "img" / "google" / "64"
    for path in sorted(folder.glob("*.png")):
        row = table.rows.get(_hex_code(path.stem))
        if row and table.groups[str(row["group"])] == "flags":
            yield _emoji_picture("noto", _hex_code(path.stem), path.read_bytes(), row, table)


@cache
def _order(text: str) -> int:
    """Stable pseudo-random rank, so that choices do not depend on the packages' order."""
    return zlib.crc32(text.encode())


def brand_names(packages: Path) -> set[str]:
    """Names of trademarks, gathered from the families that mark them as such."""
    brands: set[str] = set()
    for family in ("mdi", "carbon", "icon-park"):
        meta = _read(packages / "@iconify-json" / family / "metadata.json").get("categories") or {}
        for category, names in meta.items():
            if "brand" in category.lower() or "logo" in category.lower():
                brands.update(n.removesuffix("-outline") for n in names)
    for family, start, end in (("tabler", "brand-", ""), ("ion", "logo-", ""), ("ph", "", "-logo")):
        for raw in _family(packages, family)["icons"]:
            if raw.startswith(start) and raw.endswith(end):
                brands.add(raw.removeprefix(start).removesuffix(end))
    return {b.replace("-", " ") for b in brands}


def _categories(packages: Path, family: str) -> dict[str, str]:
    meta = _read(packages / "@iconify-json" / family / "metadata.json").get("categories") or {}
    words = {c: re.findall(r"[A-Z]?[a-z]+", c) for c in meta}  # "NatureEcology" is two words
    return {
        name: " ".join(words[category]).lower()
        for category, names in meta.items()
        if "-".join(words[category]).lower() not in DULL_CATEGORIES
        for name in names
    }


def icon_pictures(packages: Path, family: str, brands: set[str]) -> Iterator[Picture]:
    """One drawing per name of one icon family; a stable hash chooses between its styles."""
    icons = _family(packages, family)
    categories = _categories(packages, family)
    drawings: dict[str, list[str]] = {}
    for raw in icons["icons"]:
        name = icon_name(raw)
        if raw.startswith("i-") and family == "medical-icon":
            continue  # the same sign, in a box
        if name is None or name in brands or raw.endswith(SKIPPED_SUFFIXES):
            continue
        drawings.setdefault(name, []).append(raw)
    aliases: dict[str, set[str]] = {}
    for alias, entry in icons.get("aliases", {}).items():
        synonym = icon_name(alias) if set(entry) == {"parent"} else None
        if synonym and synonym not in brands:
            aliases.setdefault(entry["parent"], set()).add(synonym)
    for name, raws in sorted(drawings.items()):
        shortest = min(len(r) for r in raws)
        near = (
            [r for r in raws if len(r) <= shortest + 8] if family != "ph" else [min(raws, key=len)]
        )
        raw = min(near, key=lambda r: _order(family + r))
        category = categories.get(raw) or categories.get(min(raws, key=len))
        synonyms = sorted(set().union(*(aliases.get(r, set()) for r in raws)) - {name})
        yield Picture(
            key=f"{family}-{raw}",
            svg=_svg(icons, raw),
            concept=name,
            kind="icon",
            family=family,
            keywords=synonyms[:4] + ([category] if category else []),
            group_key=group_key(name),
        )
