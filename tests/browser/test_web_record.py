"""The record that the page lets a phone's browser save is one that Python reads."""

import json

import pytest

from tinyclip_edge.errors import DataError
from tinyclip_edge.evaluation.device_record import read_record
from web_page import MARKS, change_manifest, open_page, serving, silent_tab

pytestmark = [*MARKS, pytest.mark.slow]  # every precision is timed


def saved_record(tab, path):
    with tab.expect_download() as download:
        tab.click("#record")
    download.value.save_as(path)
    return read_record(path)


def test_the_page_saves_a_record_in_the_schema_of_bench(browser, altered, tmp_path):
    manifest = json.loads((altered / "manifest.json").read_text())
    change_manifest(altered, lambda content: content.update(name="diary of annabel"))
    with serving(altered) as server, silent_tab(browser) as tab:
        open_page(tab, server)
        record = saved_record(tab, tmp_path / "phone.json")
        cores = tab.evaluate("navigator.hardwareConcurrency")
        tab.locator("#status").wait_for(state="hidden")
        assert tab.is_enabled("#record")  # once more, if wanted
    assert (record.device.kind, record.software.runtime) == ("browser", "onnxruntime-web")
    assert record.software.interpreter.startswith(("Chromium ", "HeadlessChrome ", "Chrome "))
    assert record.device.cores == cores and record.threads == min(cores, 4)
    assert record.device.flags == ["simd128", "threads"]
    assert record.model.sha256 == manifest["model_hash"]
    assert record.model.text_parameters == manifest["parameters"]["text"]
    assert [(row.precision, row.device) for row in record.precisions] == [
        ("fp32", "wasm"), ("int8", "wasm"),
    ]  # fmt: skip
    for row in record.precisions:
        assert row.golden.passed and row.golden.same_ids and row.golden.same_pixels
        assert row.golden.image_cosine >= 0.999 and row.rounds >= 3
        needed = [manifest["towers"][tower][row.precision] for tower in ("image", "text")]
        assert row.bytes == sum(
            manifest["files"][name]["bytes"]
            for name in [*needed, "tokenizer.json", "preprocessor_config.json"]
        )
        # A session that is opened takes longer than one caption.
        assert row.cold_start_ms > row.text.p50_ms
    text = (tmp_path / "phone.json").read_text()
    assert "annabel" not in text and "127.0.0.1" not in text and "/" not in text


def test_a_record_says_that_answers_are_wrong(browser, altered, tmp_path):
    def swap(content):
        embeddings = content["golden"]["embeddings"]
        embeddings["int8"]["image"] = embeddings["int8"]["text"]

    manifest = json.loads((altered / "manifest.json").read_text())
    assert len(manifest["golden"]["images"]) == len(manifest["golden"]["texts"])
    change_manifest(altered, swap)
    with serving(altered) as server, silent_tab(browser) as tab:
        open_page(tab, server)
        record = saved_record(tab, tmp_path / "phone.json")
    assert [row.golden.passed for row in record.precisions] == [True, False]
    content = json.loads((tmp_path / "phone.json").read_text())
    content["user"] = "annabel"
    (tmp_path / "phone.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="not a device record: user"):
        read_record(tmp_path / "phone.json")
