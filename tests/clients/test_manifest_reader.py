"""The web page's reader of manifest.json allows and refuses what the Python one does."""

import json
import subprocess

import pytest

from bundle_clients import HERE
from tinyclip_edge.errors import BundleError
from tinyclip_edge.runtime.bundle import Manifest

READER = HERE.parents[1] / "demo/web/js/manifest.js"
SCRIPT = """
import { readFileSync } from "node:fs";
const { readManifest } = await import(process.argv[1]);
const answers = [];
for (const text of JSON.parse(readFileSync(0, "utf8"))) {
  const source = { read: async () => new TextEncoder().encode(text) };
  answers.push(await readManifest(source).then(() => null, (error) => error.message));
}
console.log(JSON.stringify(answers));
"""
# Each place of a manifest by turns: what stands there now -> what no reader may take.
CHANGES = {
    ("format",): ["zip", None],
    ("format_version",): [2, 0, "1"],
    ("created_by",): [None, 1],
    ("image_size",): [0, 1.5, "64", True, 10**9],
    ("context_length",): [1],
    ("logit_scale",): [0, -1, "50", 10**9],
    ("logit_bias",): ["-10", 10**9],
    ("parameters", "text"): [None, "1"],
    ("towers", "image"): [None, {}, []],
    ("towers", "text", "fp32"): ["x.onnx", [], 1],
    ("default_precision",): ["int4", {}, None],
    ("files", "tokenizer.json"): [None, [], {}],
    ("files", "tokenizer.json", "sha256"): [1],
    ("files", "tokenizer.json", "bytes"): ["1", -1],
    ("files", "../x"): [{"sha256": "0", "bytes": 1}],
    ("recipe",): [[], {"int8": 3}],
    ("inputs",): [{"batch": 0}, {"pad_id": -1}, {"padding": "left"}, []],
}
ALLOWED = {
    ("recipe",): [None, {}],
    ("golden",): [None],
    ("logit_bias",): [None, -16.5],
    ("inputs",): [{"batch": 4, "padding": "max_length", "pad_id": 0}, {"batch": None}],
    ("made_tomorrow",): ["a key that no reader knows yet"],
}


def changed(content, place, value):
    copy = json.loads(json.dumps(content))
    part = copy
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    if value is None:
        del part[place[-1]]
    return json.dumps(copy)


@pytest.fixture(scope="module")
def page_answers(node):
    def ask(texts):
        done = subprocess.run(
            [node, "--input-type=module", "-e", SCRIPT, str(READER)],
            input=json.dumps(texts), capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)

    return ask


def python_answer(folder, text):
    (folder / "manifest.json").write_text(text)
    try:
        Manifest.read(folder)
    except BundleError as error:
        return str(error)
    return None


def test_both_readers_refuse_and_allow_the_same(opened, page_answers, tmp_path):
    content = json.loads((opened.models / opened.name / "manifest.json").read_text())
    cases = [
        (place, value, table is CHANGES)
        for table in (CHANGES, ALLOWED)
        for place, values in table.items()
        for value in values
    ]
    texts = [changed(content, place, value) for place, value, _ in cases]
    for (place, value, refused), text, page in zip(cases, texts, page_answers(texts), strict=True):
        python = python_answer(tmp_path, text)
        assert (python is not None) == refused, (place, value, python)
        assert (page is not None) == refused, (place, value, page)
        if refused and page.startswith("manifest.json: key"):
            assert page.replace('"', "'") in python
