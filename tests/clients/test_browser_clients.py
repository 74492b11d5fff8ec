"""A bundle in Chromium: transformers.js and plain onnxruntime-web, wasm served by this machine."""

import shutil
from urllib.parse import urlsplit

import numpy as np
import pytest

from bundle_clients import INSTALL, PACKAGES, STANDALONE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH"),
    pytest.mark.skipif(
        not (PACKAGES / "onnxruntime-web").is_dir(),
        reason=f"the package onnxruntime-web is not installed: {INSTALL}",
    ),
]
ANSWER_MS = 120_000


@pytest.fixture(scope="module")
def page(address):
    """The page with both libraries loaded; at the end it must have asked nobody else."""
    from playwright.sync_api import sync_playwright

    hosts = set()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = chromium.new_page()
        tab.on("request", lambda request: hosts.add(urlsplit(request.url)))
        tab.set_default_timeout(ANSWER_MS)
        tab.goto(f"{address}/page.html")
        tab.wait_for_function("window.ready")
        yield tab
        chromium.close()
    assert {url.hostname for url in hosts if url.scheme not in ("data", "blob")} == {"127.0.0.1"}


def shared_weights(dtype):
    """Where the pipeline's file has its weights: a browser opens no file that it is not told of."""
    suffix = {"fp32": "", "q8": "_quantized"}[dtype]
    names = [f"{tower}_model{suffix}.onnx" for tower in ("vision", "text")]
    return {"session_options": {"externalData": [{"path": n, "data": f"onnx/{n}"} for n in names]}}


@pytest.mark.parametrize("dtype", [pytest.param("fp32", marks=pytest.mark.slow), "q8"])
def test_transformers_js_gives_pytorchs_answers(page, opened, dtype):
    job = opened.job(dtype, pipeline_options=shared_weights(dtype))
    opened.check(dtype, page.evaluate("job => answer(job)", job))


@pytest.mark.parametrize("dtype", ["fp32", "q8"])
def test_transformers_js_needs_no_option_for_a_standalone_bundle(page, opened, dtype):
    opened.check(dtype, page.evaluate("job => answer(job)", opened.job(dtype, model=STANDALONE)))


@pytest.mark.parametrize("dtype", ["fp32", "q8"])
def test_plain_onnxruntime_web_gives_pytorchs_embeddings(page, opened, dtype):
    suffix = {"fp32": "", "q8": "_quantized"}[dtype]
    run = "([file, name, type, data, shape]) => run(file, name, type, data, shape)"
    for row, expected in zip(opened.ids, opened.text_embeds, strict=True):
        file = f"/models/{opened.name}/onnx/text_model{suffix}.onnx"
        embedding = page.evaluate(run, [file, "input_ids", "int64", row, [1, len(row)]])
        assert np.array(embedding) @ expected >= opened.cosine[dtype]["text"]
    for pixels, expected in zip(opened.pixels, opened.image_embeds, strict=True):
        file = f"/models/{opened.name}/onnx/vision_model{suffix}.onnx"
        data = [file, "pixel_values", "float32", pixels.ravel().tolist(), [1, *pixels.shape]]
        assert np.array(page.evaluate(run, data)) @ expected >= opened.cosine[dtype]["image"]
