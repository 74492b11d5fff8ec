"""The written tokenizer files, read by other libraries, against open_clip's tokenizer."""

import functools
import html.entities
import json
import random
import unicodedata
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Tokenizer

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.tokenizer_files import write_tokenizer
from tinyclip_edge.runtime.tokenizer import ClipTokenizer

TEXTS = (
    "a photo of a cat",
    "A Photo  of\ttwo CATS, 42 dogs & it's raining!",
    "naïve café über straße",
    "日本語のテキスト と 絵文字 🎉👩‍🚀",
    "3.14159 1000000 x²",
    "",
    "don't we've i'll they'd 'quoted'",
    "hyphen-ated_under/slash #hash @at",
)


def loaded(context=77, **extra):
    tokenizer = SimpleTokenizer(context_length=context)
    return SimpleNamespace(
        name="m", tokenizer=tokenizer, tokenizer_file=None, context_length=context, **extra
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    special = write_tokenizer(loaded(), folder)
    assert (special.start, special.end) == (49406, 49407)
    return folder


@functools.cache
def open_clip_tokenizer():
    return SimpleTokenizer()


def open_clip_ids(text):
    row = open_clip_tokenizer()([text])[0].tolist()
    return row[: row.index(49407) + 1]


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizers_library_gives_open_clips_ids(folder, text):
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids == open_clip_ids(
        text
    )


@pytest.mark.parametrize("text", [*TEXTS, "fish &amp; chips", "“smart” quotes’"])
def test_runtime_gives_open_clips_ids(folder, text):
    tokenizer = ClipTokenizer.from_file(folder / "tokenizer.json", 77)
    assert tokenizer.encode(text) == open_clip_ids(text)


ODD_WORDS = (
    *(
        "a",
        "photo",
        "of",
        "café",
        "naïve",
        "“smart”",
        "don’t",
        "日本語",
        "हिन्दी",
        "עברית",
        "العربية",
    ),
    *(
        "👩‍👩‍👧",
        "🇩🇪",
        "☕️",
        "ﬁne",
        "ＬＯＵＤ",
        "ﾊﾝｶｸ",
        "'s",
        "'S",
        "'ſ",
        "İstanbul",
        "straße",
        "ẞ",
        "ǅ",
        "ŉ",
    ),
    *(
        "\x00",
        "\x07",
        "\x0b",
        "\x1b[31m",
        "\x7f",
        "\x85",
        "\xad",
        "\u200b",
        "\u202e",
        "\ufeff",
        "\ufffc",
    ),
    *(
        "&amp;",
        "&amp;lt;",
        "&NTILDE;",
        "&nbsp",
        "&#x1F600;",
        "&#0;",
        "&#xd800;",
        "<b>",
        "e\u0301",
        "\u0345",
    ),
    *(
        "½",
        "Ⅷ",
        "²",
        "3.14",
        "66",
        "\t",
        "\r\n",
        "\u2028",
        "\u3000",
        "\xa0",
        "<|endoftext|>",
        "_",
        "—",
    ),
    *(
        "Ã©",
        "â€œhiâ€\x9d",
        "Ã la mode",
        "\ud83d\udca9",
        "\ud800",
        "K",
        "Å",
        "한글",
        "\u1112\u1161\u11ab",
    ),
)


@pytest.fixture(scope="module")
def differing_texts(folder):
    """Count the texts whose ids, uncut, are not open_clip's."""
    ours = ClipTokenizer.from_file(folder / "tokenizer.json", 77)
    theirs = open_clip_tokenizer()
    return lambda texts: [t for t in texts if ours.pieces(t) != theirs.encode(t)]


def in_words(characters):
    """Each character inside a word, alone, and beside a digit; 64 of them a text."""
    forms = [f"ca{c}t {c} 1{c}" for c in characters]
    return [" ".join(forms[i : i + 64]) for i in range(0, len(forms), 64)]


def assigned():
    kinds = ("Cn", "Co", "Cs")
    return [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in kinds]


def test_characters_of_all_unicode(differing_texts):
    characters = assigned()
    assert len(characters) > 140_000
    assert differing_texts(in_words([*characters[:2048], *characters[2048::16]])) == []


@pytest.mark.slow
def test_each_character_of_unicode(differing_texts):
    assert differing_texts(in_words(assigned())) == []


def test_html_entities(differing_texts):
    names = list(html.entities.html5)
    assert differing_texts(f"a {k}x &{k} <b> e&#769;" for k in names[::4]) == []
    assert differing_texts(f"a {k}x &{k} z" for k in names[1::4]) == []


@pytest.mark.parametrize("joint", [" ", ""])
def test_odd_words_in_any_company(differing_texts, joint):
    chance = random.Random(7)
    texts = [joint.join(chance.choices(ODD_WORDS, k=chance.randint(1, 12))) for _ in range(1500)]
    assert differing_texts(texts) == []


def test_texts_that_were_decoded_wrongly(differing_texts):
    words = [
        "café über straße",
        "“quoted” – text… naïve",
        "Łódź",
        "日本語 テスト",
        "£5 €7 à la carte",
    ]
    codes = ("latin-1", "cp1252", "cp437", "mac_roman", "cp1251", "cp850")
    texts = [word.encode().decode(code, "replace") for word in words for code in codes]
    assert differing_texts(texts) == []
    # The repair is real: each is read as what was meant.
    assert len({tuple(open_clip_ids("Ã©tÃ©")), tuple(open_clip_ids("été"))}) == 1


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=st.text(st.sampled_from(assigned()[::7]), max_size=40))
def test_any_text(differing_texts, text):
    assert differing_texts([text]) == []


def test_starter_captions(differing_texts):
    from tinyclip_edge.starter import kit_path
    from tinyclip_edge.starter.kit import read_split

    captions = [c for sample in read_split(kit_path(), "val") for c in sample.captions]
    assert len(captions) > 400
    assert differing_texts(captions) == []


@pytest.mark.parametrize("count", [0, 1, 74, 75, 76, 77, 10_000])
def test_lengths(folder, count):
    ids = ClipTokenizer.from_file(folder / "tokenizer.json", 77).encode("dog " * count)
    assert ids == open_clip_ids("dog " * count)
    assert len(ids) == min(count + 2, 77)


def test_open_clips_own_control_words_stay_text(folder):
    """The one intended difference: open_clip makes control tokens of these two words."""
    ids = ClipTokenizer.from_file(folder / "tokenizer.json", 77).encode("<end_of_text> dog")
    assert ids.count(49407) == 1 and len(ids) > 4
    assert open_clip_ids("<end_of_text> dog") == [49406, 49407]


def test_transformers_opens_the_folder_and_agrees(folder):
    from transformers import AutoTokenizer, CLIPTokenizerFast

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, CLIPTokenizerFast)
    assert tokenizer.model_max_length == 77
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (49406, 49407)
    for text in TEXTS:
        assert tokenizer(text).input_ids == open_clip_ids(text)


def test_transformers_cuts_long_text_before_the_end_token(folder):
    from transformers import CLIPTokenizerFast

    ids = CLIPTokenizerFast.from_pretrained(folder)("dog " * 100, truncation=True).input_ids
    assert ids == open_clip_ids("dog " * 100)
    assert len(ids) == 77


def carry(file, folder):
    clip = SimpleNamespace(name="m", tokenizer=None, tokenizer_file=file, context_length=16)
    return write_tokenizer(clip, folder)


def test_a_models_own_complete_file_is_carried_unchanged(folder, tmp_path):
    (tmp_path / "carried").mkdir()
    special = carry(folder / "tokenizer.json", tmp_path / "carried")
    written = (tmp_path / "carried" / "tokenizer.json").read_bytes()
    assert written == (folder / "tokenizer.json").read_bytes()
    assert (special.start, special.end) == (49406, 49407)
    config = json.loads((tmp_path / "carried" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "CLIPTokenizer"
    assert config["model_max_length"] == 16
    assert config["eos_token"] == "<|endoftext|>"


def test_a_carried_file_learns_to_add_start_and_end(toy_tokenizer_file, tmp_path):
    from transformers import CLIPTokenizerFast

    assert json.loads(toy_tokenizer_file.read_text())["post_processor"] is None
    carry(toy_tokenizer_file, tmp_path)
    own = ClipTokenizer.from_file(toy_tokenizer_file, 16)
    text = "a photo of the red bicycle"
    assert CLIPTokenizerFast.from_pretrained(tmp_path)(text).input_ids == own.encode(text)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids == own.encode(
        text
    )


def test_tokenizer_without_a_json_form_is_refused(tmp_path):
    clip = SimpleNamespace(name="odd", tokenizer=print, tokenizer_file=None, context_length=77)
    with pytest.raises(ModelError, match="odd: its tokenizer"):
        write_tokenizer(clip, tmp_path)
