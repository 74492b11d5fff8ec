"""A tokenizer.json cannot swell a text, end the process or write past our own messages."""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import sys
from copy import deepcopy

import pytest
from tokenizers import Tokenizer

from tinyclip_edge.errors import ModelError
from tinyclip_edge.runtime.tokenizer import ClipTokenizer
from tinyclip_edge.runtime.tokenizer_json import silent_panics

CONTEXT = 8
START, END = "<|startoftext|>", "<|endoftext|>"
FILE = {
    "version": "1.0",
    "added_tokens": [
        {"id": number, "content": content, "special": True, "single_word": False,
         "lstrip": False, "rstrip": False, "normalized": False}
        for number, content in ((3, START), (4, END))
    ],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, START: 3, END: 4},
              "merges": [["a", "b"]]},
}  # fmt: skip


def write(folder, model=(), **sections):
    path = folder / "tokenizer.json"
    table = deepcopy(FILE) | sections
    table["model"].update(model)
    path.write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
    return path


def replace(content, **pattern):
    return {"type": "Replace", "pattern": pattern or {"String": "a"}, "content": content}


def sequence(*steps):
    return {"type": "Sequence", "normalizers": list(steps)}


def charsmap(longest):
    """A sentencepiece table with an empty search tree."""
    table = struct.pack("<I", 4096) + bytes(4096) + b"b\0" + longest.encode() + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}


@pytest.mark.parametrize(
    ("rule", "growth"),
    [
        (replace("x" * 2001), "2,001"),
        (replace("x" * 2000, Regex="(?=a)"), "2,001"),
        (replace("x" * 2000, String=""), "2,001"),
        (sequence(*[replace("aa")] * 11), "2,048"),
        (sequence(sequence(*[replace("aaa")] * 6), replace("aaaa")), "2,916"),
        ({"type": "Prepend", "prepend": "x" * 2000}, "2,001"),
        (charsmap("é" * 2001), "2,001"),
        # A sign of 18 characters, three of which become that sign again.
        (sequence(*[replace("\ufdfa", String=" "), {"type": "NFKD"}] * 3), "5,832"),
        (sequence(*[{"type": "ByteLevel"}] * 6), "4,096"),
    ],
)
def test_rules_that_swell_a_text_are_refused(tmp_path, rule, growth):
    path = write(tmp_path, normalizer=rule)
    with pytest.raises(ModelError, match=rf"may turn one character into {growth}; at most 2,000"):
        ClipTokenizer.from_file(path, CONTEXT)


def test_splitters_that_swell_a_text_are_refused(tmp_path):
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": False}  # fmt: skip
    rule = {"type": "Sequence", "pretokenizers": [level] * 6}
    with pytest.raises(ModelError, match="up to ByteLevel, may turn one character into 4,096"):
        ClipTokenizer.from_file(write(tmp_path, pre_tokenizer=rule), CONTEXT)


@pytest.mark.parametrize(
    "rule",
    [
        # CLIP's own, and those of ALBERT, XLNet (1,296) and T5, with tables of NFKC's longest.
        sequence({"type": "NFC"}, replace(" ", Regex="\\s+"), {"type": "Lowercase"}),
        sequence(replace('"', String="``"), {"type": "NFKD"}, {"type": "StripAccents"},
                 {"type": "Lowercase"}, charsmap("\ufdfa" * 18), replace(" ", Regex=" {2,}")),
        sequence(charsmap("é" * 18), {"type": "Strip", "strip_left": False, "strip_right": True},
                 replace("\u2581", Regex=" {2,}")),
        sequence(replace("\u2581", String=" "), {"type": "Prepend", "prepend": "\u2581"}),
    ],
)  # fmt: skip
def test_the_rules_of_published_tokenizers_are_read(tmp_path, rule):
    assert ClipTokenizer.from_file(write(tmp_path, normalizer=rule), CONTEXT).encode("")


def test_a_file_of_millions_of_values_is_not_parsed(tmp_path):
    path = write(tmp_path)
    path.write_bytes(b'{"a":[' + b"[]," * 2_000_000 + b"1]," + path.read_bytes()[1:])
    with pytest.raises(ModelError, match=r"it has more than 4,000,000 values"):
        ClipTokenizer.from_file(path, CONTEXT)


def test_a_prefix_that_ends_the_process_is_refused(tmp_path):
    """The library cuts two bytes into a character and aborts: no exception can be caught."""
    model = {"continuing_subword_prefix": "#", "vocab": {"a": 0, "é": 1, START: 3, END: 4},
             "merges": [["a", "é"]]}  # fmt: skip
    path = write(tmp_path, model)
    assert path.read_text().isascii() is False
    hidden = path.read_text().replace("continuing", "continu\\u0069ng")
    repeated = path.read_text().replace('"vocab"', '"continuing_subword_prefix": null, "vocab"')
    for text in (path.read_text(), hidden, repeated):
        path.write_text(text)
        command = [sys.executable, "-c", f"from tinyclip_edge.runtime.tokenizer import *\ntry:\n  "
                   f"ClipTokenizer.from_file({str(path)!r}, 8)\nexcept ModelError as e:\n  "
                   "print(e)"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "continuing_subword_prefix is supported for WordPiece" in done.stdout or (
            "a key is repeated" in done.stdout
        )


def test_a_wordpiece_model_has_a_prefix(tmp_path):
    path = tmp_path / "tokenizer.json"
    model = {
        "type": "WordPiece",
        "unk_token": "a",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {"a": 0, "##b": 1, START: 3, END: 4},
    }
    path.write_text(json.dumps(FILE | {"model": model}))
    assert ClipTokenizer.from_file(path, CONTEXT).pieces("ab") == [0, 1]


PANICS = {
    "while it is read": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/wAAAA=="}},
    "at any text": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
}


@pytest.mark.parametrize("kind", PANICS)
def test_a_panic_of_the_library_is_one_line(tmp_path, kind):
    path = write(tmp_path, **PANICS[kind])
    command = [
        sys.executable,
        "-c",
        f"""
import os, sys
from tinyclip_edge.runtime.tokenizer import *
try:
    ClipTokenizer.from_file({str(path)!r}, 8)
except ModelError as error:
    print(error)
os.write(2, b"still there")
""",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"{path} is not a tokenizer.json: ")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == "still there"


def test_without_an_error_stream_files_are_read(toy_tokenizer_file):
    path = toy_tokenizer_file
    ids = ClipTokenizer.from_file(path, 8).encode("a cat")
    command = [
        sys.executable,
        "-c",
        f"""
import os
os.close(2)
from tinyclip_edge.runtime.tokenizer import ClipTokenizer
print(list(ClipTokenizer.from_file({str(path)!r}, 8).encode("a cat")))
""",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{list(ids)}\n")


def test_the_error_stream_is_untouched_beside_other_threads(monkeypatch):
    monkeypatch.setattr("threading.active_count", lambda: 2)
    read, written = os.pipe()
    before = os.dup(2)
    os.dup2(written, 2)
    try:
        with silent_panics():
            os.write(2, b"heard")
    finally:
        os.dup2(before, 2)
    assert os.read(read, 9) == b"heard"
    for number in (read, written, before):
        os.close(number)


def test_a_plain_file_is_parsed_by_the_library_as_before(tmp_path):
    path = write(tmp_path)
    expected = Tokenizer.from_file(str(path)).encode("ab ba", add_special_tokens=False).ids
    assert ClipTokenizer.from_file(path, CONTEXT).pieces("ab ba") == expected
