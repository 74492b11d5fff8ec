"""Rules about the tree itself that a reader would stumble over."""

import ast
import re
from collections import Counter
from pathlib import Path

from tinyclip_demo.web_files import page_files

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("tinyclip_edge", "export/tinyclip_export", "demo/tinyclip_demo")
MAX_LINES = 300


def sources():
    return [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def test_files_stay_short():
    lines = {p.relative_to(ROOT).as_posix(): len(p.read_text().splitlines()) for p in sources()}
    assert {name: n for name, n in lines.items() if n > MAX_LINES} == {}


def test_no_two_classes_have_one_name():
    trees = (ast.parse(path.read_text()) for path in sources())
    names = Counter(each.name for tree in trees for each in tree.body
                    if isinstance(each, ast.ClassDef))  # fmt: skip
    assert [name for name, count in names.items() if count > 1] == []


def test_no_two_test_files_have_one_name():
    """pytest imports them by their names alone, and leaves the second one out."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_applications_to_start_from_stay_small():
    kinds = {".c", ".h", ".kt", ".js", ".mjs"}
    for name in ("c", "android", "node", "react-native"):
        folder = ROOT / "demo" / name
        files = [
            p for p in folder.rglob("*") if p.suffix in kinds and "node_modules" not in p.parts
        ]
        assert 0 < sum(len(p.read_text().splitlines()) for p in files) <= MAX_LINES, name


def test_no_drawer_modules():
    banned = {"utils.py", "common.py", "helpers.py", "misc.py"}
    assert [p for p in sources() if p.name in banned or re.search(r"_v\d+\.py$", p.name)] == []


def test_packages_are_typed():
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)


def test_version_is_stated_once():
    from tinyclip_edge import __version__

    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.+)"$', text, re.MULTILINE)[1] == __version__


def test_base_dependencies_are_the_runtime_only():
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)[1]
    names = set(re.findall(r'"([a-z]+)', block))
    assert names == {
        "numpy", "pillow", "onnxruntime", "tokenizers", "ftfy", "typer", "rich", "pydantic",
        "pyyaml", "filelock",
    }  # fmt: skip


def test_files_that_the_architecture_names_exist():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text[text.index("## Where a change goes") : text.index("## Formats")]
    names = re.findall(r"`([\w./]*(?:/[\w.]+|\.py|\.yaml))`", table)
    folders = ("", "tinyclip_edge", "tinyclip_edge/train", *PACKAGES)
    assert len(names) > 30
    assert [
        name
        for name in names
        if "NAME" not in name and not any((ROOT / folder / name).exists() for folder in folders)
    ] == []


def test_counts_in_messages_have_thousands_separators():
    """``{len(pairs):,} pairs``, so that a large one can be read."""
    plain = re.compile(r'{len\([^{}]*\)} [a-z"]')
    assert [
        f"{path.relative_to(ROOT)} {place}"
        for path in sources()
        for place in plain.findall(path.read_text(encoding="utf-8"))
    ] == []


def test_the_wheel_has_the_browser_page():
    """All that it serves, without the picture of its README."""
    text = (ROOT / "pyproject.toml").read_text()
    packed = dict(re.findall(r'^"(demo/web/\S+)" = "tinyclip_demo/web_page/(\S+)"', text, re.M))
    assert all(source == f"demo/web/{name}" for source, name in packed.items())
    served = {path.relative_to(ROOT).as_posix() for path in page_files().values()}
    assert all((ROOT / source).exists() for source in packed)
    assert {
        name
        for name in served
        if not any(name == source or name.startswith(f"{source}/") for source in packed)
    } == {"demo/web/screenshot.png"}
