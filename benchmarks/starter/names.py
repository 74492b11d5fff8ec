"""Turn icon file names and emoji labels into concept names, and concepts into split groups."""

from __future__ import annotations

import re

# fmt: off
# Words for a drawing style, not for what is drawn.
STYLE_WORDS = frozenset(
    [
        "outline", "outlined", "filled", "fill", "bold", "light", "thin", "duotone", "linear",
        "broken", "sharp", "rounded", "solid", "regular", "twotone", "variant", "alt",
        "alternative",         "stroked", "simple", "minimalistic", "flat", "px",
    ]
)
# Styles only as the last word: "line chart" is a chart, "add-line" is a stroke style.
TRAILING_STYLE = frozenset(["line", "one", "two", "three", "four", "five", "six", "round"])
SKIP_WORDS = frozenset(
    [
        "negative", "duotone", "broken", "ios", "md", "ltr", "rtl", "jp", "us", "uk", "logo",
        "brand",
    ]
)
# First words of brand names that the list of brands cannot distinguish from plain nouns.
BRAND_FIRST = frozenset(
    [
        "google", "microsoft", "facebook", "amazon", "adobe", "aws", "ibm", "android", "windows",
        "twitter", "github", "gitlab", "tencent", "baidu", "alipay", "wechat", "weixin", "qq",
        "paypal", "linkedin", "youtube", "instagram", "whatsapp", "telegram", "tiktok", "skype",
        "spotify", "dropbox", "figma", "chrome", "firefox", "debian", "ubuntu", "linux", "docker",
        "kindle", "netflix", "pinterest", "reddit", "snapchat", "slack", "stackoverflow", "steam",
        "vimeo", "xbox", "playstation", "nintendo", "bitcoin", "ethereum", "openai", "huawei",
        "samsung", "xiaomi", "sony", "nokia", "intel", "nvidia", "tesla", "uber", "airbnb", "visa",
        "mastercard", "creative", "ai", "airpods", "iphone", "ipad", "imac", "macbook", "homepod",
        "applecare", "alibaba", "taobao", "bilibili", "zhihu", "douban", "weibo", "dribbble",
        "behance", "medium", "discord", "twitch", "tumblr", "vk", "yahoo", "yandex", "wordpress",
        "drupal", "jira", "bitbucket", "html", "css", "javascript", "typescript", "python", "java",
        "php", "ruby", "rust", "golang", "swift", "kotlin", "vue", "angular", "react", "npm",
        "nodejs", "sass", "mysql", "mongodb", "oracle", "salesforce", "sap", "watson", "red",
        "openshift", "kubernetes",
    ]
)
# A number after these words is part of the meaning, not a version: leave such icons out.
COUNTED = frozenset(
    [
        "number", "numeric", "counter", "looks", "filter", "level", "exposure", "replay", "rewind",
        "forward", "roman", "grade", "skip", "hexagon", "circle", "square", "letter", "alpha",
        "signal", "bars", "battery", "wifi", "cell", "network", "clock", "hour", "h", "heading",
    ]
)
COLOURS = frozenset(
    [
        "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
        "grey", "gray",
    ]
)
DIRECTIONS = frozenset(
    [
        "left", "right", "up", "down", "top", "bottom", "upper", "lower", "north", "south", "east",
        "west", "northeast", "northwest", "southeast", "southwest", "upward", "downward", "upwards",
        "downwards", "leftwards", "rightwards", "back", "backhand", "forward", "clockwise",
        "counterclockwise", "anticlockwise", "horizontal", "vertical", "horizontally", "vertically",
        "facing", "tilted", "oncoming",
    ]
)
PERSONS = frozenset(
    [
        "man", "woman", "person", "men", "women", "people", "boy", "girl", "male", "female", "mens",
        "womens", "couple", "gender", "male-sign", "kneeling",
    ]
)
NUMBERS = frozenset(
    [
        "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
        "twelve", "thirty", "half", "single", "double", "triple", "1st", "2nd", "3rd",
    ]
)
FILLER = frozenset(
    [
        "a", "an", "the", "of", "with", "and", "in", "on", "for", "to", "symbol", "sign", "icon",
        "button", "s", "variant",
    ]
)
# fmt: on
ACCENTED = "éèêëáàâãäåçíîïñóôöõøúüû“”!."
ASCII_LETTERS = "eeeeaaaaaaciiinooooouuu    "
VARIANT_WORDS = (
    STYLE_WORDS
    | COLOURS
    | DIRECTIONS
    | PERSONS
    | NUMBERS
    | FILLER
    | {"face", "small", "large", "medium"}
)


def icon_name(raw: str) -> str | None:
    """Return the concept name, words separated by spaces, of an icon's file name; None: skip it."""
    words = [w for w in re.split(r"[-_ ]+", raw.lower()) if w]
    if (
        SKIP_WORDS & set(words)
        or words[0] in BRAND_FIRST
        or (words[-1] == "off" and len(words) > 3)
    ):
        return None
    words = [w for w in words if w not in STYLE_WORDS]
    while len(words) > 1 and (words[-1] in TRAILING_STYLE or words[-1].isdigit()):
        if COUNTED & set(words[:-1]) and words[-1] not in ("line", "round"):
            return None
        words.pop()
    words = [re.sub(r"(?<=[a-z]{3})\d$", "", w) for w in words]
    if not words or len(words) > 4 or any(re.search(r"[^a-z]", w) for w in words):
        return None
    name = " ".join(words)
    return name if len(name) > 2 or name in ("tv", "ox", "up", "pi", "om", "ad") else None


def _singular(word: str) -> str:
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def group_key(name: str) -> str:
    """Return a concept's split key, which variants in colour, gender, direction etc. share."""
    words = re.findall(r"[a-z0-9]+", name.lower().replace("’", "").replace("'", ""))
    key_words = [_singular(w) for w in words if w not in VARIANT_WORDS and not w.isdigit()]
    if not key_words:
        key_words = (
            ["person"] if PERSONS & set(words) else [w for w in words if w in ("thirty", "double")]
        )
    if not key_words:
        key_words = ["direction"] if DIRECTIONS & set(words) else words
    return " ".join(sorted(set(key_words)))


def slug(label: str) -> str:
    """Return an emoji label as packages spell it in file names: ASCII words joined by hyphens."""
    text = label.lower().replace("’", "").replace("'", "").replace("&", "and")
    for letter, ascii_letter in zip(ACCENTED, ASCII_LETTERS, strict=True):
        text = text.replace(letter, ascii_letter)
    return "-".join(re.findall(r"[a-z0-9]+", text))
