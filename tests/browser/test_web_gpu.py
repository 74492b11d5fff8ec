"""WebGPU is used where it gives the bundle's own answers, and nowhere else."""

import shutil

import pytest

from tinyclip_demo.web_files import page_folder
from tinyclip_edge import EdgeCLIP
from web_page import (
    GPU_ARGUMENTS,
    MARKS,
    badges,
    chances,
    change_manifest,
    open_page,
    running_chromium,
    serving,
    silent_tab,
)

pytestmark = [*MARKS, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser():
    with running_chromium(*GPU_ARGUMENTS) as chromium:
        yield chromium


def open_on_gpu(tab, server, precision):
    open_page(tab, server, f"?backend=webgpu&precision={precision}")
    if not tab.locator("#backend option[value=webgpu]").count():
        pytest.skip("this Chromium offers no WebGPU")


def test_a_gpu_that_answers_rightly_is_used(browser, bundle):
    python = EdgeCLIP.load(bundle, precision="fp32")
    with serving(bundle) as server, silent_tab(browser) as tab:
        open_on_gpu(tab, server, "fp32")
        assert badges(tab)[:2] == ["WebGPU", "fp32"]
        assert tab.is_hidden("#warning")
        labels = tab.input_value("#labels").split(", ")
        sample = page_folder() / "samples" / "cat-face.webp"
        assert dict(chances(tab)) == pytest.approx(dict(python.classify(sample, labels)), abs=1e-3)


def test_a_gpu_that_answers_wrongly_is_not_used(browser, bundle, tmp_path):
    """Embeddings of another tower stand for kernels that go wrong without an error."""

    def change(content):
        golden = content["golden"]["embeddings"]["int8"]
        golden["image"] = golden["text"]

    altered = shutil.copytree(bundle, tmp_path / "altered")
    change_manifest(altered, change)
    with serving(altered) as server, silent_tab(browser) as tab:
        open_on_gpu(tab, server, "int8")
        warning = tab.inner_text("#warning")
        assert "WebGPU gives wrong results for this bundle in int8: image cosine" in warning
        assert "Using WASM instead" in warning
        assert badges(tab)[:2] == ["WASM", "int8"]
        assert tab.input_value("#backend") == "wasm"


def test_a_gpu_is_not_used_without_golden_vectors(browser, bundle, tmp_path):
    altered = shutil.copytree(bundle, tmp_path / "altered")
    change_manifest(altered, lambda content: content.update(golden={}))
    with serving(altered) as server, silent_tab(browser) as tab:
        open_on_gpu(tab, server, "fp32")
        assert "this bundle has no golden vectors for fp32" in tab.inner_text("#warning")
        assert badges(tab)[:2] == ["WASM", "fp32"]
        assert tab.is_disabled("#test")
