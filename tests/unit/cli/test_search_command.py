"""``tinyclip-edge index``, ``search``, ``duplicates`` and ``watch`` on a folder of pictures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tinyclip_edge import EdgeCLIP, ImageIndex
from tinyclip_edge.collection import folder_index
from tinyclip_edge.collection.approximation import vocabulary_texts


def test_index_says_what_it_did_and_what_it_skipped(command_line, photos, shared_tiny_bundle):
    for number in range(12):
        (photos / f"broken{number:02d}.jpg").write_bytes(b"junk")
    words = ("index", "photos", "--into", "x", "--bundle", shared_tiny_bundle.folder)
    code, out, err = command_line(*words)
    assert code == 0 and re.fullmatch(r"x\.npz: 6 pictures \(6 new\) in [\d.]+ m?s\n", out)
    lines = err.splitlines()
    assert len(lines) == 11 and lines[0].startswith(f"skipped: {photos / 'broken00.jpg'} is not")
    assert lines[-1] == "skipped: 2 more; --json lists all"
    (photos / "red.png").rename(photos / "rot.png")
    code, out, err = command_line(*words, "--json")
    report = json.loads(out)
    assert (code, err) == (0, "") and (report["moved"], len(report["skipped"])) == (1, 12)
    _, out, _ = command_line(*words)
    assert "(nothing new)" in out


def test_search_finds_what_the_library_finds(command_line, indexed, shared_tiny_bundle):
    clip = EdgeCLIP.load(shared_tiny_bundle.folder)
    index = ImageIndex.load("pictures")
    expected = clip.search("a red cat", index, 3)
    code, out, err = command_line("search", "a red cat", "--top", 3)
    lines = "".join(f"{hit.score:6.3f}  {hit.key}\n" for hit in expected)
    assert (code, out, err) == (0, lines, "")
    red = indexed / "red.png"
    query = {"cat": 1, red: 1}
    expected = clip.search(query, index, 10, negative=["a", "red"])
    words = ("search", "cat", "--image", red, "--not", "a", "--not", "red", "--json")
    answer = json.loads(command_line(*words)[1])
    assert [row["image"] for row in answer["results"]] == [hit.key for hit in expected]
    assert [row["score"] for row in answer["results"]] == [
        pytest.approx(hit.score, abs=1e-6) for hit in expected
    ]
    assert answer["pictures"] == 6
    limit = expected[2].score - 1e-4
    answer = json.loads(command_line(*words, "--min-score", limit)[1])
    assert len(answer["results"]) == 3
    code, out, err = command_line("search", "cat", "--min-score", 1)
    assert (code, out, err) == (0, "", "no pictures with a score of 1 or more\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("",), "the text to search for is empty"),
        (("  ", "--image", "red.png"), "the text to search for is empty"),
        (("cat", "--in", "pairs.csv"), "pairs.csv is not an index file, whose name ends in .npz"),
        (("cat", "--in", "no.csv"), "no such index: no.csv.npz; make one with"),
    ],
)
def test_a_search_that_cannot_be(command_line, indexed, words, line):
    Path("pairs.csv").write_text("image,caption\n")
    code, out, err = command_line("search", *words)
    assert (code, out) == (2, "") and err.startswith(f"error: {line}")


def test_a_graph_is_built_searched_and_removed(command_line, indexed, monkeypatch):
    words = ("index", "photos")
    code, _, err = command_line(*words, "--approximate")
    assert code == 2 and re.search(r"exact search of 6 pictures takes .* for 100,000 or more", err)
    monkeypatch.setattr("tinyclip_edge.collection.approximation.EXACT_BELOW", 0)
    said = "approximate search: it finds 100.0 % of the 10 nearest pictures that exact search finds"
    code, _, err = command_line(*words, "--approximate")
    assert code == 0 and err.startswith(said)
    expected = command_line("search", "cat", "--exact")
    code, out, err = command_line("search", "cat")
    assert (code, out) == expected[:2] and expected[2] == ""
    assert err.startswith(said) and err.endswith("; --exact compares all\n")
    assert json.loads(command_line("search", "cat", "--json")[1])["recall"] == 1
    Image.new("RGB", (12, 9), "pink").save(indexed / "pink.png")
    (indexed / "red.png").unlink()
    code, out, _ = command_line(*words, "--json")  # one of six has no node: it is added
    report = json.loads(out)
    assert (report["pictures"], report["graph"]["recall"]) == (6, 1)
    graph = ImageIndex.load("pictures").graph
    assert len(graph.labels) == 6 and graph.nodes == 7
    assert "pink.png" in command_line("search", "cat")[1]
    assert command_line(*words, "--exact")[0] == 0
    assert ImageIndex.load("pictures").graph is None
    assert command_line("search", "cat")[2] == ""


def test_a_missing_extra_is_said_before_pictures_are_read(command_line, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    code, out, err = command_line("index", "photos", "--approximate")
    assert (code, out) == (2, "") and err.endswith("pip install 'tinyclip-edge[search]'\n")
    assert not Path("pictures.npz").exists()


def test_texts_that_recall_is_measured_with(shared_tiny_bundle):
    """The words of a tokenizer that has whole ones, each once, and no more than are needed."""
    clip = EdgeCLIP.load(shared_tiny_bundle.folder)
    assert vocabulary_texts(clip, 9) == ["a photo"]  # its only word is short
    path = shared_tiny_bundle.folder / "tokenizer.json"
    words = ["bird</w>", "▁house", "Ġtree", "prefix", "Name</w>", "at</w>", "x1y2z3</w>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = json.loads(path.read_text())
    tokenizer["model"].update(vocab=vocabulary, merges=[])
    other = path.parent.parent / "other"
    other.mkdir()
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    clip.folder = other
    assert vocabulary_texts(clip, 9) == [
        f"a photo of a {word}" for word in ("bird", "house", "tree")
    ]
    assert vocabulary_texts(clip, 2) == ["a photo of a bird", "a photo of a tree"]


def test_a_page_and_copies_of_the_results(command_line, indexed, monkeypatch):
    (indexed / "a&b<i>.png").write_bytes((indexed / "red.png").read_bytes())
    command_line("index", indexed)
    (indexed / "lime.png").unlink()
    words = ("search", "cat", "--html", "page.html", "--copy-to", "hits/new")
    code, _, err = command_line(*words)
    gone = f"{indexed / 'lime.png'}: not copied, gone or no picture; index its folder again"
    assert code == 0 and err.splitlines() == ["page.html", "hits/new: 6 pictures copied", gone]
    page = Path("page.html").read_text()
    assert page.count("<img ") == 6 and "a&amp;b&lt;i&gt;.png" in page and "a&b<i>" not in page
    assert page.count("src=") == page.count('src="data:image/webp;base64,') and "http" not in page
    assert f"no such image: {indexed / 'lime.png'}" in page
    hits = [line.split("  ")[1] for line in command_line("search", "cat")[1].splitlines()]
    copies = {path.name: path.read_bytes() for path in Path("hits/new").iterdir()}
    assert copies == {
        f"{rank:02d}-{Path(key).name}": Path(key).read_bytes()
        for rank, key in enumerate(hits, 1)
        if Path(key).exists()
    }
    code, _, err = command_line(*words)
    assert code == 2 and re.search(
        r"error: hits/new/\S+ exists already; choose another folder", err
    )
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert command_line("search", "cat", "--open")[0] == 0
    assert opened[0].startswith("file:///") and "<img" in Path(opened[0][7:]).read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("search",), "search needs a text or --image FILE"),
        (("search", "cat", "--in", "none"), "no such index: none.npz"),
        (("search", "photos/red.png"), "photos/red.png is a picture; search by it with --image ph"),
        (("search", "--image", "none.png"), "no such image: none.png"),
        (("search", "cat", "--not", "cat"), "the parts of the query cancel out"),
        (("index", "nowhere"), "no folder "),
        (("index", "photos/red.png"), "no folder "),
        (("index", "photos", "--precision", "fp32"), "pictures.npz: the index was made"),
        (("duplicates", "--in", "none"), "no such index: none.npz"),
    ],
)
def test_mistakes_are_one_line(command_line, indexed, words, message):
    code, out, err = command_line(*words)
    assert (code, out) == (2, "") and err.startswith(f"error: {message}") and err.count("\n") == 1


def test_an_index_knows_its_bundle(command_line, indexed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)  # without bundles/
    index = tmp_path / "pictures.npz"
    assert command_line("search", "cat", "--in", index)[0] == 0
    stored = ImageIndex.load(index)
    replace(stored, bundle=str(tmp_path / "gone")).save(index)
    code, _, err = command_line("search", "cat", "--in", index)
    assert code == 2 and err.startswith("error: no bundle in bundles/: name one with --bundle")


def test_thumbnails_only_where_the_terminal_shows_them(command_line, indexed, monkeypatch):
    for name in ("TMUX", "STY", "KITTY_WINDOW_ID", "TERM_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-kitty")
    assert "\x1b" not in command_line("search", "cat")[1]  # this is no terminal
    assert command_line("search", "cat", "--thumbnails")[1].count("\x1b_Ga=T") == 6
    assert "\x1b" not in command_line("search", "cat", "--thumbnails", "--json")[1]
    monkeypatch.setenv("TERM", "xterm")
    code, out, err = command_line("search", "cat", "--thumbnails")
    message = "error: this terminal cannot show pictures; use --open or --html FILE\n"
    assert (code, out, err) == (2, "", message)


def test_an_index_from_elsewhere_copies_and_shows_pictures_only(command_line, indexed, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_text("a password")
    index = ImageIndex.load("pictures")
    replace(index, keys=(str(secret), *index.keys[1:])).save("pictures")
    code, _, err = command_line("search", "cat", "--copy-to", "copies", "--html", "page.html")
    assert code == 0 and "copies: 5 pictures copied" in err
    assert all(b"password" not in path.read_bytes() for path in Path("copies").iterdir())
    assert "password" not in Path("page.html").read_text()


def test_names_that_are_not_utf8_are_shown(command_line, photos, shared_tiny_bundle):
    name = os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png")
    (photos / "red.png").rename(name)
    command_line("index", photos, "--bundle", shared_tiny_bundle.folder)
    code, out, _ = command_line("search", "cat")
    assert code == 0 and r"caf\udce9.png" in out
    answer = json.loads(command_line("search", "cat", "--json")[1])
    assert name in [row["image"] for row in answer["results"]]
    code, _, _ = command_line("search", "cat", "--html", "page.html", "--copy-to", "copies")
    assert code == 0 and len(list(Path("copies").iterdir())) == 6
    assert r"caf\udce9.png" in Path("page.html").read_text()


def test_a_search_by_text_loads_little(indexed):
    code = (
        "import sys; sys.argv = ['tinyclip-edge', 'search', 'cat'];"
        "from tinyclip_edge.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    unwanted = {"PIL", "rich", "filelock", "torch", "ftfy", "yaml", "asyncio"}
    assert "onnxruntime" in loaded and loaded & unwanted == set()
    assert "tinyclip_edge.collection" not in loaded


def test_duplicates_are_grouped(command_line, indexed):
    (indexed / "again.png").write_bytes((indexed / "red.png").read_bytes())
    Image.new("RGB", (12, 9), (254, 0, 0)).save(indexed / "nearly.png")
    command_line("index", indexed)
    groups = json.loads(command_line("duplicates", "--json")[1])["groups"]
    names = [{Path(key).stem for key in group} for group in groups]
    assert {"again", "nearly", "red"} in [group & {"again", "nearly", "red"} for group in names]
    code, out, err = command_line("duplicates", "--min-score", 1 - 1e-6)
    assert code == 0 and "again.png" in out and err.splitlines()[-1].endswith("among 8 pictures")


def test_an_interrupted_index_says_how_to_continue(command_line, indexed, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tinyclip_edge.collection.folder_index.index_folders", interrupt)
    code, out, err = command_line("index", indexed)
    assert (code, out, err) == (
        130,
        "",
        "interrupted; finished embeddings are saved; the same command continues\n",
    )


def test_watch_follows_a_folder_until_it_is_interrupted(command_line, indexed, monkeypatch):
    steps = iter(
        [
            (indexed / "red.png").unlink,
            lambda: indexed.rename(indexed.with_name("away")),
            lambda: indexed.with_name("away").rename(indexed),
            lambda: None,  # nothing to do, nothing to say
            lambda: Image.new("RGB", (12, 9), "red").save(indexed / "red.png"),
        ]
    )

    def sleep(_):
        step = next(steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr("time.sleep", sleep)
    runs = []
    real = folder_index.index_folders
    monkeypatch.setattr(
        folder_index,
        "index_folders",
        lambda *arguments, **options: runs.append(1) or real(*arguments, **options),
    )
    code, _, err = command_line("watch", indexed)
    assert len(runs) == 4  # not while nothing changes
    lines = [re.sub(r" in [\d.]+ m?s$", "", line) for line in err.splitlines()]
    assert code == 130 and lines == [
        "pictures.npz: 5 pictures (1 deleted)",
        f"no folder {indexed}: it does not exist",
        "pictures.npz: 6 pictures (1 new)",
        "interrupted; the index is as last written; the same command continues",
    ]
