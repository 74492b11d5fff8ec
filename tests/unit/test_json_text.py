"""JSON and messages of any size: refused, or shortened to one line."""

import json

import pytest

from tinyclip_edge.errors import ConfigError, DataError, one_line
from tinyclip_edge.json_text import check_structure, parse_json, read_json_file, read_json_table


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 5000 + b"]" * 5000, "nested more than 64 deep"),
        (b"[" * 66 + b"]" * 66, "nested more than 64 deep"),
        (b'{"a":' * 100_000, "nested more than 64 deep"),
        (b"\xff", "invalid start byte"),
        (b"9" * 6000, "Exceeds the limit"),
        (b"{", "line 1 column 2"),
        (b"[" + b"1," * 9_000_000 + b"1]", "more than 16,777,216 bytes"),
        (b"[" + b"[]," * 500_000 + b"1]", "it has more than 1,000,000 values"),
        (b"{" + b'"a":0,' * 500_000 + b'"b":0}', "it has more than 1,000,000 values"),
    ],
)
def test_what_is_no_json_of_bounded_size_is_refused(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^cannot read [^\n]+$") as caught:
        read_json_file(path, DataError)
    assert message in str(caught.value)


def test_depth_up_to_the_limit_a_byte_order_mark_and_a_larger_limit_are_read(tmp_path):
    value = 1
    for _ in range(64):
        value = [value]
    assert parse_json(json.dumps(value)) == value
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}' + b" " * (17 << 20))
    assert read_json_table(path, DataError, limit=1 << 25) == {"a": 1}


def test_a_larger_number_of_values_is_read_where_it_is_expected(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a":[' + b"0," * 1_000_000 + b"0]}")
    assert len(read_json_table(path, DataError, values=2_000_000)["a"]) == 1_000_001
    assert parse_json("[0,0]", values=2) == [0, 0]
    with pytest.raises(ValueError, match="more than 1 values"):
        parse_json("[0,0]", values=1)


def test_a_git_lfs_pointer_names_the_cure(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(DataError, match=r"tokenizer\.json is a Git LFS pointer, .*git lfs pull"):
        read_json_file(path, DataError)


def test_what_is_no_file_or_no_table_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no file"):
        read_json_file(tmp_path / "none.json", ConfigError)
    with pytest.raises(ConfigError, match="it is not a file"):
        read_json_file(tmp_path, ConfigError)
    with pytest.raises(ConfigError, match="null byte"):
        read_json_file(tmp_path / "a\0b", ConfigError)
    with pytest.raises(ConfigError, match="too long"):
        read_json_file(tmp_path / ("x" * 300), ConfigError)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match="does not contain a JSON object"):
        read_json_table(tmp_path / "list.json", ConfigError)


def test_a_message_is_one_line_of_bounded_length_whatever_it_quotes():
    assert str(DataError("a\nb\x1b[2J\ud800\u202e é…")) == "a\\nb\\x1b[2J\\ud800\\u202e é…"
    name = "/data/" + "x" * 100_000 + ".png"
    message = str(DataError(f"image {name} cannot be decoded: broken"))
    assert len(message) < 400
    assert message.startswith("image /data/xxx") and message.endswith(
        "xxx.png cannot be decoded: broken"
    )
    assert len(one_line("ab " * 100_000)) < 2100
    assert one_line(message) == message


def test_repeated_keys_are_refused_on_request_and_otherwise_the_last_counts():
    text = '{"a": {"b": 1, "b": 2}}'
    assert parse_json(text) == {"a": {"b": 2}}
    with pytest.raises(ValueError, match="a key is repeated"):
        parse_json(text, unique_keys=True)


@pytest.mark.parametrize(
    "content",
    [b"[" + b"0," * 30 + b"0]", b"{" + b'"a":0,' * 11 + b'"a":0}', b"[" + b'"",' * 41 + b'""]',
     b'["\\\\", ' + b"[]," * 21 + b"0]", b'["\\"", ' + b"0," * 40 + b"0]"],
)  # fmt: skip
def test_many_values_are_counted_outside_strings(content):
    with pytest.raises(ValueError, match="more than 20 "):
        check_structure(content, 20)


@pytest.mark.parametrize(
    "text", [",:[{" * 99, '"' * 99, '\\",[' * 99, "\\" * 99 + ",", "é,\n" * 99]
)
def test_punctuation_in_texts_is_not_counted(text):
    check_structure(json.dumps({"a": [text, text]}).encode(), 20)
    check_structure(json.dumps({"a": [text, text]}, ensure_ascii=False).encode(), 20)
