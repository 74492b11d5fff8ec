"""How the lines of CSV, TSV and JSON lines are read: quotes, line breaks, faulty records."""

import json

import pytest
from table_files import FORMS, refused, write

from tinyclip_edge.data import open_source


def test_a_mark_of_utf8_is_no_part_of_a_column(tmp_path, images):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfimage,caption\r\n" + f"{images[0][0]},caf\u00e9\r\n".encode())
    assert [pair.captions for pair in open_source(str(path))] == [("caf\u00e9",)]


def test_quotes_of_a_tsv_are_letters(tmp_path, images):
    texts = ['"To be" he said', '"open', 'say ""hi""', '"a ""b"" c"', '5" nails']
    rows = [f"{image}\t{text}" for (image, _), text in zip(images, texts, strict=False)]
    source = open_source(str(write(tmp_path / "a.tsv", ["image\tcaption", *rows])))
    expected = ['"To be" he said', '"open', 'say ""hi""', 'a "b" c', '5" nails']
    assert [pair.captions for pair in source] == [(text,) for text in expected]


def test_a_csv_quote_that_is_none_is_refused_with_its_line(tmp_path, images):
    rows = [f"{images[0][0]},fine", f'{images[1][0]},"To be" he said', f'{images[2][0]},"more"']
    message = refused(write(tmp_path / "a.csv", ["image,caption", *rows]))
    assert "a.csv line 3: " in message and "double those inside it" in message


def test_captions_that_are_objects_are_refused_with_their_line(tmp_path, images):
    rows = [json.dumps({"image": images[0][0], "captions": [{"id": 0, "caption": "a dog"}]})]
    assert "line 1 cannot be used: an object is not text in 'captions'" in refused(
        write(tmp_path / "a.jsonl", rows)
    )


CSV_FAULTS = {
    "glued to the end": ['{2},"To be', "{3},x", '{4},not to be"'],
    "caption first": ['"To be,{2}', "x,{3}", 'or not",{4}'],
    "every cell in quotes": ['"{2}","To be', '"{3}","x"', '"{4}","y"'],
    "no second quote": ['{2},"To be', "{3},x", "{4},y"],
    "a quote in the line": ['{2},"To be" he said', "{3},x", "{4},y"],
}


@pytest.mark.parametrize("rows", CSV_FAULTS.values(), ids=CSV_FAULTS)
def test_a_csv_record_that_swallows_lines_is_refused_with_its_lines(tmp_path, images, rows):
    header = "caption,image" if rows[1].startswith("x") else "image,caption"
    first = f"ok,{images[0][0]}" if header.startswith("c") else f"{images[0][0]},ok"
    names = [image for image, _ in images]
    path = write(tmp_path / "a.csv", [header, first, *(row.format(*names) for row in rows)])
    message = refused(path)
    assert "a.csv line 3: " in message or "a.csv lines 3 to " in message
    assert "in quotes" in message and "JSON lines" in message


def test_line_breaks_inside_quotes_are_blanks_whatever_the_columns(tmp_path, images):
    for header, row in (
        ("image,caption", '{},"one, two\n\nthree, ""four"""'),
        ("caption,image", '"one, two\n\nthree, ""four""",{}'),
        ("id,caption,image", '7,"one, two\n\nthree, ""four""",{}'),
    ):
        rows = [row.format(image) for image, _ in images]
        pairs = list(open_source(str(write(tmp_path / "a.csv", [header, *rows]))))
        assert [(p.key, p.captions) for p in pairs] == [
            (image, ('one, two three, "four"',)) for image, _ in images
        ]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_old_line_ends_and_other_letters_are_named(tmp_path, images, name):
    path = write(tmp_path / name, FORMS[name](images))
    text = path.read_text()
    path.write_bytes(text.replace("\n", "\r").encode())
    assert refused(path) == (
        f"{path} has CR line endings, as on old Macs; convert them to LF: tr '\\r' '\\n'"
    )
    path.write_bytes(text.encode("utf-16"))
    assert refused(path) == f"{path} is UTF-16; save it as UTF-8"
    path.write_bytes(text.replace("\n", "\r\n").encode())
    assert len(list(open_source(str(path)))) == 48


def test_a_cr_inside_a_csv_is_named(tmp_path, images):
    path = write(tmp_path / "a.csv", ["image,caption", f"{images[0][0]},a\rb"])
    assert "line 2: a line contains a CR; end lines with LF" in refused(path)


def test_a_tsv_cell_over_two_lines_is_refused(tmp_path, images):
    rows = [f'{images[0][0]}\t"first', 'second"', f"{images[1][0]}\tx"]
    assert "lines 2 to 3: a quoted cell continues on the next line" in refused(
        write(tmp_path / "a.tsv", ["image\tcaption", *rows])
    )


def test_the_first_faulty_lines_are_named_in_their_order(tmp_path, images):
    rows = [f"{image}," for image, _ in images[:12]]
    message = refused(write(tmp_path / "a.csv", ["image,caption", *rows]))
    places = [part.split(" has")[0] for part in message.split("a.csv line ")[1:]]
    assert places == ["2", "3", "4", "5", "6"] and message.endswith("and 7 more")
