"""The applications of demo/ that run in Node reproduce a bundle's golden vectors."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from bundle_clients import LABELS, PACKAGES
from recorded_bundle import change_manifest
from tinyclip_edge import EdgeCLIP

DEMO = Path(__file__).parents[2] / "demo"
UNDER_NODE = """
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-node";
import { decode } from "../node/bundle.mjs";
import { classify, openModel } from "./model.js";
const [folder, picture, ...labels] = process.argv.slice(2);
const source = { read: async (name) => new Uint8Array(await readFile(`${folder}/${name}`)) };
const { clip, result } = await openModel({ source, ort, backend: "cpu", decode });
console.log(JSON.stringify({ result, rows: await classify(clip, await decode(picture), labels) }));
"""


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """The folder demo/ where npm has installed the packages of its applications."""
    root = tmp_path_factory.mktemp("samples")
    for name in ("node", "react-native", "web"):
        if (DEMO / name).is_dir():
            shutil.copytree(DEMO / name, root / "demo" / name)
    (root / "node_modules").symlink_to(PACKAGES.resolve())
    return root / "demo"


@pytest.fixture
def run(node, samples):
    def call(script, *words):
        return subprocess.run(
            [node, str(samples / script), *map(str, words)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return call


def test_react_natives_model_gives_the_recorded_answers(run, opened, samples, tmp_path):
    """All but the pages and the decoder of the phone, on Node's onnxruntime."""
    script = samples / "react-native" / "under_node.mjs"
    script.write_text(UNDER_NODE)
    bundle = opened.models / "toy"
    Image.fromarray(opened.image).save(tmp_path / "noise.png")
    done = run(script, bundle, tmp_path / "noise.png", *LABELS)
    answer = json.loads(done.stdout)
    assert answer["result"]["failures"] == [] and answer["result"]["samePixels"]
    python = EdgeCLIP.load(bundle).classify(tmp_path / "noise.png", LABELS)
    assert [row["label"] for row in answer["rows"]] == [label for label, _ in python]
    golden = json.loads((bundle / "manifest.json").read_text())["golden"]
    golden["embeddings"]["int8"]["image"] = golden["embeddings"]["int8"]["text"]
    changed = shutil.copytree(bundle, tmp_path / "toy")
    change_manifest(changed, golden=golden)
    refused = run(script, changed, tmp_path / "noise.png", *LABELS)
    assert "this device gives other results than recorded: image cosine" in refused.stderr


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_node_gives_the_recorded_answers(run, opened, precision):
    done = run("node/classify.mjs", opened.models / "toy", "--check", "--precision", precision)
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["precision"] == precision
    assert result["sameIds"] and result["samePixels"]
    assert min(result["image"], result["text"]) >= (0.9999 if precision == "fp32" else 0.999)


def test_node_classifies_as_python_does(run, opened, tmp_path):
    path = tmp_path / "noise.png"
    Image.fromarray(opened.image).resize((90, 50)).save(path)
    bundle = opened.models / "toy"
    done = run(
        "node/classify.mjs", bundle, path, "--labels", ", ".join(LABELS), "--precision", "fp32"
    )
    expected = EdgeCLIP.load(bundle, precision="fp32").classify(path, LABELS)
    rows = [line.strip().split(" %  ") for line in done.stdout.splitlines()[1:]]
    assert [label for _, label in rows] == [label for label, _ in expected]
    assert [float(chance) for chance, _ in rows] == pytest.approx(
        [100 * chance for _, chance in expected], abs=0.06
    )


def test_node_says_what_is_wrong(run, opened, tmp_path):
    bundle = shutil.copytree(opened.models / "toy", tmp_path / "toy")
    golden = json.loads((bundle / "manifest.json").read_text())["golden"]
    golden["embeddings"]["fp32"]["image"] = golden["embeddings"]["fp32"]["text"]
    change_manifest(bundle, golden=golden)
    done = run("node/classify.mjs", bundle, "--check", "--precision", "fp32")
    assert done.returncode == 3 and "image cosine" in json.loads(done.stdout)["failures"][0]
    (tmp_path / "text.jpg").write_text("no picture")
    for words, fault in (
        ((tmp_path, "--check"), "is not a bundle: it has no manifest.json"),
        ((bundle, tmp_path / "text.jpg", "--labels", "a,b"), "text.jpg cannot be decoded"),
        ((bundle, "--chek"), "usage: node classify.mjs"),
    ):
        done = run("node/classify.mjs", *words)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and fault in done.stderr
        assert done.stderr.count("\n") == 1
