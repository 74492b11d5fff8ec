"""The React Native project has no import that does not resolve, and parses."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.sample

PROJECT = Path(__file__).parents[2] / "demo/react-native"


def test_it_is_bundled_with_the_pages_modules(tools, tmp_path):
    out = tmp_path / "bundle.js"
    words = [
        tools / "esbuild/bin/esbuild", PROJECT / "index.js", "--bundle", "--packages=external",
        "--loader:.js=jsx", "--jsx=automatic", "--format=esm", f"--outfile={out}",
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert "web/js/tokenizer.js" in text and "web/js/preprocess.js" in text
    # Metro takes no import whose name is computed, and Hermes no import.meta.
    assert not re.search(r"\bimport\((?![\"'])|import\.meta", text)
    imported = set(re.findall(r'from "([^"./][^"]*)"', text)) - {"react/jsx-runtime"}
    assert imported <= set(json.loads((PROJECT / "package.json").read_text())["dependencies"])
