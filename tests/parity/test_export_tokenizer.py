"""The written tokenizer files, read by other libraries, against open_clip's tokenizer."""

import functools
import json
from types import SimpleNamespace

import pytest
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


def test_a_models_own_whole_file_is_carried_unchanged(folder, tmp_path):
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
