"""The tokenizer and the decoder inside a graph, beside open_clip's tokenizer and Pillow."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from tinyclip_edge.models.pieces import read_pieces
from tinyclip_edge.models.tokenizer_files import read_tokenizer_table
from tinyclip_edge.models.trimmed_tokenizer import base_ids, required_ids, trimmed_json
from tinyclip_edge.runtime.preprocess import CLIP_STD, Preprocess
from tinyclip_edge.runtime.tokenizer import ClipTokenizer
from tinyclip_export.bundle.encoded_image_tower import _with_decoder
from tinyclip_export.bundle.extension_operators import open_with_extension
from tinyclip_export.bundle.string_text_tower import EXACT, INEXACT
from tinyclip_export.bundle.tokenizer_graph import StringTower, tokenizer_graph
from tinyclip_export.bundle.uint8_image_tower import MAX_LEVELS, preprocessing_graph
from tinyclip_export.layout import InputForm

pytestmark = pytest.mark.application

ALIKE = [
    *EXACT,
    "a photo of a cat",
    "STRASSE École İstanbul",
    "½ ² Ⅷ ١٢٣ ⅷⅷ",
    "naïve — dash… #tag @you e-mail: a@b.c 100% ¿qué?",
    "tab\tx a\u00a0b a\u3000b a\r\nb",
    "हिन्दी ไทย 한국어 العربية",
    "a'll'b it'sa 'd x 'd 5 's",
    "fish &amp;amp; chips",
    "<|STARTOFTEXT|>",
]


@pytest.fixture(scope="module")
def open_clips(tmp_path_factory):
    """open_clip's own tokenizer, and its vocabulary as a graph."""
    from open_clip.tokenizer import SimpleTokenizer

    from tinyclip_edge.models.tokenizer_files import END, START, byte_pair_tokenizer

    theirs = SimpleTokenizer()
    names = {theirs.sot_token_id: START, theirs.eot_token_id: END}
    vocabulary = {names.get(index, piece): index for piece, index in theirs.encoder.items()}
    path = tmp_path_factory.mktemp("clip") / "tokenizer.json"
    byte_pair_tokenizer(vocabulary, theirs.bpe_ranks).save(str(path))
    return theirs, StringTower(path, theirs.sot_token_id, theirs.eot_token_id, 77, InputForm())


def graph_ids(session, text):
    return session.run(None, {"text": np.array([text], object)})[0]


def test_ids_equal_open_clips(open_clips):
    theirs, parts = open_clips
    session = open_with_extension(tokenizer_graph(parts).SerializeToString())
    for text in ALIKE:
        (ids,) = graph_ids(session, text)
        padded = np.pad(ids, (0, 77 - len(ids)))
        np.testing.assert_array_equal(padded, theirs([text])[0].numpy(), err_msg=text[:50])
    different = [text for text in INEXACT if np.pad(ids := graph_ids(session, text)[0],
                 (0, 77 - len(ids))).tolist() != theirs([text])[0].tolist()]  # fmt: skip
    assert different == list(INEXACT)  # a release that knows more should be noticed


def test_fewer_tokens_give_the_same_ids(open_clips, tmp_path):
    """Of `--trim-vocab`: words that are no longer there are spelled alike."""
    theirs, parts = open_clips
    content = read_tokenizer_table(parts.tokenizer)
    pieces = read_pieces(content, "toy")
    needed = {index for text in ("a photo of a cat", "two dogs") for index in theirs.encode(text)}
    ids = required_ids(pieces, base_ids(content, pieces), needed)
    assert len(ids) < 600
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(trimmed_json(content, pieces, ids)))
    start, end = ids.index(parts.start), ids.index(parts.end)
    trimmed = StringTower(path, start, end, 77, InputForm())
    session = open_with_extension(tokenizer_graph(trimmed).SerializeToString())
    tokenizer = ClipTokenizer.from_file(path, 77)
    for text in ALIKE:
        assert graph_ids(session, text)[0].tolist() == tokenizer.encode(text), text[:50]


def test_fixed_shapes_are_padded(open_clips):
    theirs, parts = open_clips
    fixed = StringTower(parts.tokenizer, parts.start, parts.end, 16, InputForm(1, True, 5))
    session = open_with_extension(tokenizer_graph(fixed).SerializeToString())
    ids = theirs(["two dogs"])[0].tolist()
    short = ids[: ids.index(parts.end) + 1]
    assert graph_ids(session, "two dogs")[0].tolist() == short + [5] * (16 - len(short))
    long = graph_ids(session, "dog " * 40)[0].tolist()
    assert len(long) == 16 and long[-1] == parts.end and long.count(parts.end) == 1


@pytest.fixture(scope="module")
def decoder():
    """Encoded picture to pixels, with Pillow's way beside it."""
    preprocess = Preprocess(48, 48)
    session = open_with_extension(_with_decoder(preprocessing_graph(preprocess)))

    def run(content):
        return session.run(None, {"image": np.frombuffer(content, np.uint8)})[0][0]

    return run, preprocess


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def difference(one, other):
    """Return the largest difference of two preprocessed pictures, in levels of 255."""
    return np.abs((one - other) * np.array(CLIP_STD)[:, None, None] * 255).max()


def picture():
    y, x = np.mgrid[0:90, 0:130]
    return Image.fromarray(np.stack([x * 2 % 256, y * 2, (x + y) % 256], -1).astype(np.uint8))


@pytest.mark.parametrize(
    ("form", "options", "levels"),
    [
        ("PNG", {}, 1),
        ("JPEG", {"quality": 90, "subsampling": 0}, 1),
        ("JPEG", {"quality": 75, "subsampling": 0, "progressive": True}, 1),
        ("JPEG", {"quality": 90, "subsampling": 2}, 8),
    ],
)
def test_pixels_are_near_pillows(decoder, form, options, levels):
    run, preprocess = decoder
    content = encoded(picture(), form, **options)
    ours = preprocess(Image.open(io.BytesIO(content)))
    assert difference(run(content), ours) < levels + 0.01


def test_other_png_are_read_as_rgb(decoder):
    run, preprocess = decoder
    for mode in ("L", "P", "1", "LA"):
        content = encoded(picture().convert(mode), "PNG")
        ours = preprocess(Image.open(io.BytesIO(content)).convert("RGB"))
        assert difference(run(content), ours) < MAX_LEVELS + 0.01


def test_files_that_the_decoder_cannot_bear_are_refused(decoder):
    run, _ = decoder
    jpeg = encoded(picture(), "JPEG")
    for content in (
        b"",
        b"x",
        b"RIFF" + bytes(60),
        jpeg[:-2],  # from which the decoder alone never returns
        jpeg[: len(jpeg) // 2],
        jpeg[:3],
        b"\xff\xd8\xff\xd9"[:3],
    ):
        with pytest.raises(Exception, match="Invalid image data"):
            run(content)
    for mode in ("L", "CMYK"):
        with pytest.raises(Exception, match="Reshape"):
            run(encoded(picture().convert(mode), "JPEG"))
