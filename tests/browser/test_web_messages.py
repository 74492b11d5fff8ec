"""What the page says of labels, files and bundles that cannot be used: one line each."""

import struct
import zlib

import pytest

from web_page import (
    LABELS,
    MARKS,
    change_manifest,
    open_page,
    picture,
    serving,
    silent_tab,
    type_labels,
    wait_until,
)

pytestmark = MARKS


@pytest.fixture(scope="module")
def shared_tab(browser, server):
    """An open page. Shared: a test leaves it with labels and a picture that it answers to."""
    with silent_tab(browser) as page:
        open_page(page, server)
        yield page


def shows(tab, id, text):
    tab.locator(f"#{id}", has_text=text).wait_for()
    shown = tab.inner_text(f"#{id}")
    assert "\n" not in shown.strip()
    return shown


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", "no labels: enter two or more"),
        (" ,\n,", "no labels: enter two or more"),
        ("cat", "only one label (cat)"),
        (",".join(f"l{i}" for i in range(201)), "201 labels are too many: at most 200"),
        (f"cat, {'x' * 201}", "a label has 201 characters: at most 200"),
    ],
)
@pytest.mark.slow
def test_labels_to_mend_are_reported(shared_tab, labels, message):
    shared_tab.fill("#labels", labels)
    shows(shared_tab, "label-note", message)
    wait_until(shared_tab, "document.querySelectorAll('#bars li').length == 0")
    type_labels(shared_tab, LABELS)
    assert shared_tab.is_hidden("#label-note")


@pytest.mark.slow
def test_labels_of_the_same_tokens_and_cut_ones_are_reported(shared_tab):
    long = "cat " * 15  # with start and end 17 tokens, the toy bundle takes 16
    shared_tab.fill("#labels", f"{long}dog, {long}bicycle")
    shows(shared_tab, "label-note", "are the same after truncation to the model's 16 tokens")
    wait_until(shared_tab, "document.querySelectorAll('#bars li').length == 0")
    shared_tab.fill("#labels", "cat, dog, Cat")
    shows(shared_tab, "label-note", 'labels "cat" and "Cat" become the same tokens')
    shared_tab.fill("#labels", f"dog, {long}")
    shows(
        shared_tab,
        "label-note",
        "1 of 2 prompts are longer than the model's 16 tokens and are truncated",
    )
    wait_until(shared_tab, "document.querySelectorAll('#bars li').length == 2")
    type_labels(shared_tab, LABELS)
    assert shared_tab.is_hidden("#label-note")


@pytest.mark.slow
def test_a_template_without_a_place_is_reported(shared_tab):
    shared_tab.fill("#templates", "a photo")
    shows(shared_tab, "label-note", "the prompt template needs {} in place of the label")
    type_labels(shared_tab, LABELS)
    assert shared_tab.is_hidden("#label-note")


def bomb():
    """A PNG of a few bytes that says it has 60000 x 60000 pixels."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"no picture", "notes.txt is not a picture that this browser can read"),
        (
            "cut.png",
            b"\x89PNG\r\n\x1a\n1234",
            "cut.png is not a picture that this browser can read",
        ),
        ("empty.jpg", b"", "empty.jpg is empty"),
        ("bomb.png", bomb(), "bomb.png has 60000x60000 pixels; at most 89,478,485 are opened"),
        (
            "model.onnx",
            b"\x08\x08",
            "model.onnx is part of a bundle: drop or open the whole folder",
        ),
    ],
    ids=["text", "cut", "empty", "bomb", "onnx"],
)
@pytest.mark.slow
def test_a_wrong_file_is_reported_and_the_next_picture_works(
    shared_tab, tmp_path, name, content, message
):
    path = tmp_path / name
    path.write_bytes(content)
    shared_tab.set_input_files("#file", path)
    shows(shared_tab, "picture-note", message)
    wait_until(shared_tab, "document.querySelectorAll('#bars li').length == 0")
    shared_tab.click("#samples button:nth-child(2)")
    shared_tab.locator("#bars li").first.wait_for()
    assert shared_tab.is_hidden("#picture-note")


@pytest.mark.slow
def test_a_folder_that_is_no_bundle_is_reported(tab, tmp_path):
    (tmp_path / "pictures").mkdir()
    picture(20, 20).save(tmp_path / "pictures" / "a.png")
    tab.set_input_files("#folder", tmp_path / "pictures")
    shows(tab, "status", "this folder is not a bundle: it has no manifest.json")


def newer(folder):
    change_manifest(folder, lambda content: content.update(format_version=2))


def outside(folder):
    entry = {"sha256": "0" * 64, "bytes": 1}
    change_manifest(folder, lambda content: content["files"].update({"../x": entry}))


def foreign_tokenizer(folder):
    change_manifest(folder, lambda content: content.update(tokenizer={"clean": "lower", "end": 1}))


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        (newer, "status", "format_version 2 is newer than 1, the newest this page reads"),
        (outside, "status", 'file "../x" is outside the bundle'),
        (
            lambda folder: (folder / "manifest.json").write_text("{"),
            "status", "manifest.json is not JSON",
        ),
        (
            lambda folder: (folder / "manifest.json").unlink(),
            "status", "no bundle at http://127.0.0.1:",
        ),
        (
            lambda folder: (folder / "onnx/text_model_quantized.onnx").unlink(),
            "status", "onnx/text_model_quantized.onnx is missing from the bundle",
        ),
        (
            lambda folder: (folder / "onnx/text_model_quantized.onnx").write_bytes(b"other"),
            "status", "onnx/text_model_quantized.onnx has changed: sha256",
        ),
        (foreign_tokenizer, "label-note", "this page reads only CLIP's byte-pair tokenizers"),
    ],
)  # fmt: skip
def test_a_bundle_to_mend_is_reported(browser, altered, change, place, message):
    with serving(altered) as server, silent_tab(browser, missing=True) as tab:
        change(altered)  # after the server has looked at it
        tab.goto(server.url)
        shows(tab, place, message)


def test_missing_runtime_files_and_wrong_addresses_are_reported(browser, server, bundle):
    with serving(bundle) as other, silent_tab(browser, missing=True) as tab:
        other.files = {k: v for k, v in other.files.items() if not k.startswith("/ort/")}
        tab.goto(other.url)
        shows(tab, "status", "onnxruntime-web is not at")
        tab.goto(server.url + "?bundle=https://example.com/")
        shows(tab, "status", "is on another host")
        tab.goto(server.url + "?precision=int3")
        shows(tab, "status", "this bundle has no precision int3; it has fp32, int8")


@pytest.mark.slow
def test_webgpu_requested_where_there_is_none_is_reported(browser, server):
    with silent_tab(browser) as tab:
        open_page(tab, server, "?backend=webgpu")
        if tab.locator("#backend option[value=webgpu]").count() == 0:
            shows(tab, "warning", "This browser does not support WebGPU. Using WASM instead.")


@pytest.mark.slow
def test_a_precision_that_does_not_load_leaves_the_others_usable(browser, altered):
    (altered / "onnx/text_model.onnx").write_bytes(b"other")
    with serving(altered) as server, silent_tab(browser) as tab:
        open_page(tab, server)
        tab.select_option("#precision", "fp32")
        shows(tab, "status", "onnx/text_model.onnx has changed: sha256")
        tab.select_option("#precision", "int8")
        tab.locator("#status").wait_for(state="hidden")
        tab.locator("#bars li").first.wait_for()
