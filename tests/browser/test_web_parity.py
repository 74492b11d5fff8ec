"""The browser page computes what Python computes: token ids, pixels, probabilities, goldens."""

import base64
import io
import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from tinyclip_edge import EdgeCLIP
from tinyclip_edge.runtime.bundle import file_sha256
from tinyclip_edge.runtime.images import open_image
from tinyclip_edge.runtime.preprocess import Preprocess
from tinyclip_edge.runtime.tokenizer import ClipTokenizer
from web_page import (
    LABELS,
    MARKS,
    chances,
    change_manifest,
    open_page,
    picture,
    self_test,
    serving,
    silent_tab,
    type_labels,
)

pytestmark = MARKS
TEXTS = [
    "a photo of the cat", "Don't stop, it's 42!!", "it'll we've I'd 'tis", "C++ & C#", "100000",
    "naïve café e\u0301", "日本語 テスト", "हिन्दी भाषा", "עברית العربية", "İstanbul ΣΑΣ ẞ straße",
    "🎉 👨‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿", "ＬＯＵＤ　ﾃｽﾄ", "ﬁne ﬂuﬀ ŉ Ǆ", "“quoted” ‘x’ …", "№ ½ ² ٣ Ⅷ",
    "&lt;b&gt; &amp;amp; P&EACUTE;REZ &notit; &copy 2024 &#233; &#x1F600; &#0; &#128;",
    "<b>&eacute;</b>", "<|endoftext|> is text", "a\u00a0b\u2003c\ufeffd\u200be", "tab\tand\n\nline",
    "\x1b[31mred\x1b[0m \x07 \x7f \x92", "it'ſ \u0345x e&#769;", "\ufffd",
    "", "   ", "dog " * 40, "x" * 300,
]  # fmt: skip
FIT = {"do_center_crop": True, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
SETTINGS = {
    "shortest": {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    "squash, bilinear": {
        "size": {"height": 32, "width": 32}, "do_center_crop": False, "resample": 2,
    },
    "longest, filled": {
        "size": {"height": 30, "width": 44}, "do_center_crop": False,
        "resize_mode": "longest", "fill_color": 7,
    },
    "shortest, oblong": {
        "size": {"height": 30, "width": 44}, "do_center_crop": False,
        "resize_mode": "shortest", "resample": 2,
    },
}  # fmt: skip
SIZES = [(1, 1), (5, 7), (32, 32), (41, 32), (200, 31), (257, 333), (640, 481), (2, 300), (300, 2)]


@pytest.fixture
def tab(browser):
    with silent_tab(browser) as page:
        yield page


@pytest.fixture(scope="module")
def scripts(browser, server):
    """A tab that may import the page's modules. Shared: change nothing in it."""
    with silent_tab(browser) as page:
        page.goto(server.url)
        yield page


TOKENIZE = """async ([tokenizer, manifest, texts]) => {
  const { ClipTokenizer } = await import("/js/tokenizer.js");
  const found = new ClipTokenizer(new TextEncoder().encode(tokenizer), manifest);
  return texts.map((text) => found.encode(text));
}"""


def tokenized(scripts, path, manifest):
    return scripts.evaluate(TOKENIZE, [path.read_text(encoding="utf-8"), manifest, TEXTS])


def test_token_ids_are_pythons(scripts, bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    python = EdgeCLIP.load(bundle)
    tokenized_ids = tokenized(scripts, bundle / "tokenizer.json", manifest)
    for text, ids in zip(TEXTS, tokenized_ids, strict=True):
        assert ids == python.token_ids(text), text


def test_token_ids_of_a_trimmed_vocabulary_are_pythons(scripts, bundle, tmp_path):
    from tinyclip_edge.models.pieces import read_pieces
    from tinyclip_edge.models.trimmed_tokenizer import base_ids, required_ids, trimmed_json

    content = json.loads((bundle / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer = ClipTokenizer.from_file(bundle / "tokenizer.json", 16)
    pieces = read_pieces(content, "toy")
    required = required_ids(pieces, base_ids(content, pieces), tokenizer.pieces("a red bicycle"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(trimmed_json(content, pieces, required)), encoding="utf-8")
    trimmed = ClipTokenizer.from_file(path, 16)
    assert trimmed.vocab_size < tokenizer.vocab_size
    manifest = {"context_length": 16, "tokenizer": {}, "eot_token_id": trimmed.eot_token_id}
    for text, ids in zip(TEXTS, tokenized(scripts, path, manifest), strict=True):
        assert ids == trimmed.encode(text), text


RESIZE = """async ([config, size, rgba]) => {
  const { Preprocess } = await import("/js/preprocess.js");
  const [width, height] = size;
  const data = Uint8Array.from(atob(rgba), (char) => char.charCodeAt(0));
  return Array.from(new Preprocess(config).floats({ data, width, height }));
}"""


@pytest.mark.parametrize("name", SETTINGS)
def test_pixels_are_pillows_to_the_last_bit(scripts, name):
    config = FIT | SETTINGS[name]
    config.setdefault("crop_size", config["size"])
    preprocess = Preprocess.from_config(config)
    for size in SIZES:
        noise = np.random.default_rng(size).integers(0, 256, (size[1], size[0], 4), np.uint8)
        rgba = base64.b64encode(noise.tobytes()).decode()
        pixels = np.array(scripts.evaluate(RESIZE, [config, size, rgba]), dtype=np.float32)
        np.testing.assert_array_equal(
            pixels, preprocess(noise[:, :, :3]).ravel(), err_msg=str(size)
        )


DECODE = """async (encoded) => {
  const { decodeBlob } = await import("/js/decode.js");
  const bytes = Uint8Array.from(atob(encoded), (char) => char.charCodeAt(0));
  const { data, width, height } = await decodeBlob(new Blob([bytes]), "a picture");
  return [width, height, Array.from(data)];
}"""


def odd_files():
    """Pictures that say how they lie, and pictures that are not opaque everywhere."""
    colours = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (5, 9, 3), np.uint8)
    ).resize((90, 50), Image.Resampling.BICUBIC)
    alpha = colours.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize((90, 50)))
    clear = alpha.quantize(32)

    def file(image, kind, **options):
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()

    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        full = {"quality": 100, "subsampling": 0}
        yield f"JPEG turned {orientation}", file(colours, "JPEG", exif=exif, **full)
        yield f"PNG turned {orientation}", file(colours, "PNG", exif=exif)
        yield f"WebP turned {orientation}", file(colours, "WEBP", exif=exif, lossless=True)
    yield "PNG RGBA", file(alpha, "PNG")
    yield "PNG LA", file(alpha.convert("LA"), "PNG")
    yield "PNG palette", file(clear, "PNG")
    yield "WebP RGBA", file(alpha, "WEBP", lossless=True, exact=True)
    yield "GIF", file(clear, "GIF", transparency=3)
    grey = np.linspace(0, 65_535, 90).astype(np.uint16)[None].repeat(50, 0)
    yield "PNG grey of 16 bits", file(Image.fromarray(grey), "PNG")
    yield "PNG palette, opaque", file(colours.quantize(32), "PNG")
    yield "PNG of one bit", file(colours.convert("1"), "PNG")


@pytest.mark.slow
def test_odd_files_are_the_pixels_that_python_sees(scripts):
    for name, content in odd_files():
        width, height, data = scripts.evaluate(DECODE, base64.b64encode(content).decode())
        shown = np.array(data).reshape(height, width, 4)
        python = np.asarray(open_image(content)).astype(int)
        assert shown.shape[:2] == python.shape[:2], name
        # JPEG decoders round colours apart by a level or two, blending by one.
        most = 3 if name.startswith("JPEG") else 1
        assert np.abs(shown[:, :, :3] - python).max() <= most, name
        assert (shown[:, :, 3] == 255).all(), name


@pytest.mark.parametrize(
    ("precision", "pixels", "tolerance"),
    # int8 adds whole numbers, but where a float before it differs in its last bit, a step differs.
    [("fp32", "page", 1e-4), ("int8", "page", 0.01), ("fp32", "model", 0.01)],
)
def test_probabilities_and_order_are_pythons(
    tab, server, bundle, tmp_path, precision, pixels, tolerance
):
    path = tmp_path / "noise.png"
    picture(130, 90, seed=5).save(path)
    templates = ["{}", "a photo of {}"]
    python = EdgeCLIP.load(bundle, precision=precision).classify(path, LABELS, templates)
    open_page(tab, server, f"?precision={precision}&pixels={pixels}")
    tab.set_input_files("#file", path)
    tab.locator("#picture[alt='noise.png']").wait_for()
    type_labels(tab, LABELS, " | ".join(templates))
    tab.locator("#times", has_text="130 × 90").wait_for()
    tab.locator("#times", has_text="10 texts").wait_for()
    actual = chances(tab)
    assert dict(actual) == pytest.approx(dict(python), abs=tolerance)
    expected = dict(python)
    for (better, _), (worse, _) in pairwise(actual):
        assert expected[better] >= expected[worse] - tolerance
    assert actual[0][0] == python[0][0]


@pytest.mark.slow
def test_self_test_passes_on_wasm(tab, server):
    open_page(tab, server)
    verdict, rows = self_test(tab)
    assert verdict.startswith("All 4 ")
    rows_by_precision = {row[1]: row for row in rows}
    assert set(rows_by_precision) == {
        "fp32",
        "int8",
        "fp32, resized inside",
        "int8, resized inside",
    }
    assert {(row[0], row[2], row[6]) for row in rows} == {("WASM", "✓ pass", "equal")}
    assert rows_by_precision["fp32"][7] == rows_by_precision["int8"][7] == "equal"
    assert float(rows_by_precision["fp32"][3]) >= 0.9999
    assert float(rows_by_precision["int8"][4]) >= 0.999


def flip_weights(folder, name):
    """Turn the sign of one matrix, and keep the manifest's hash in step."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(folder / name))
    weights = next(w for w in model.graph.initializer if len(w.dims) == 2 and min(w.dims) >= 64)
    weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights), weights.name))
    onnx.save(model, str(folder / name))
    entry = {"sha256": file_sha256(folder / name), "bytes": (folder / name).stat().st_size}
    change_manifest(folder, lambda content: content["files"].update({name: entry}))


@pytest.mark.slow
def test_self_test_finds_a_flipped_weight(browser, altered):
    flip_weights(altered, "onnx/vision_model.onnx")
    with serving(altered) as server, silent_tab(browser) as tab:
        open_page(tab, server)
        verdict, rows = self_test(tab)
    assert verdict.startswith("Do not trust fp32 on WASM (image cosine ")
    assert "int8 on WASM" not in verdict
    results = {(row[0], row[1]): row[2] for row in rows}
    assert results["WASM", "fp32"] == "✗ fail"
    assert results["WASM", "int8"] == "✓ pass"


@pytest.mark.slow
def test_self_test_finds_other_golden_ids(browser, altered):
    def change(content):
        content["golden"]["texts"][0]["input_ids"][1] += 1

    change_manifest(altered, change)
    with serving(altered) as server, silent_tab(browser) as tab:
        open_page(tab, server)
        verdict, _ = self_test(tab)
    assert "fp32 on WASM (texts give different token ids" in verdict
