"""Bundles whose files are whole and signed, and still not what they should be."""

import json

import numpy as np
import pytest
from PIL import Image

from tiny_bundle import CONTEXT, DIM, SIZE
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.errors import BundleError, ModelError
from tinyclip_edge.runtime.classifier import EdgeClassifier
from tinyclip_edge.runtime.plain_tokenizer import PlainTokenizer
from tinyclip_edge.runtime.session import OnnxSession, Tower
from tinyclip_edge.runtime.tokenizer import ClipTokenizer
from tinyclip_edge.runtime.tokenizer_json import tokenizer_errors

PIXELS = np.ones((2, 3, SIZE, SIZE), np.float32)
NAMES = ("pixel_values", "image_embeds")
UNKNOWN = {
    "version": "1.0",
    "added_tokens": [
        {"id": i, "content": text, "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for i, text in enumerate(["<|startoftext|>", "<|endoftext|>"])
    ],
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {"type": "WordLevel", "vocab": {"<|startoftext|>": 0, "<|endoftext|>": 1, "cat": 2},
              "unk_token": "[UNK]"},
}  # fmt: skip


def change_manifest(bundle, change):
    path = bundle.folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", [{}, ["a"], 5, None, "nowhere.onnx"])
def test_a_classifier_that_is_no_listed_file(tiny_bundle, name):
    change_manifest(
        tiny_bundle,
        lambda content: content.update(extras={"classifier": {"files": {"int8": name}}}),
    )
    with pytest.raises(BundleError, match=r"no int8 classifier|is not listed"):
        EdgeClassifier.load(tiny_bundle.folder)


@pytest.mark.parametrize("key", ["recipe", "inputs", "golden", "extras", "verification"])
def test_an_optional_key_of_a_manifest_may_be_null(tiny_bundle, key):
    change_manifest(tiny_bundle, lambda content: content.update({key: None}))
    clip = EdgeCLIP.load(tiny_bundle.folder)
    assert clip.encode_text(["cat"]).shape == (1, DIM)
    change_manifest(tiny_bundle, lambda content: content.update(recipe={"int8": None}))
    assert EdgeCLIP.load(tiny_bundle.folder).manifest.saturates("text", "int8")


@pytest.mark.parametrize("name", ["manifest.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b"[" * 70 + b"]" * 70, "nested more than 64 deep"),
        (b"{}" + b" " * (1 << 24), "more than 16,777,216 bytes"),
        (b"[]", "does not contain a JSON object"),
    ],
)
def test_json_of_a_bundle_is_of_bounded_size_and_can_be_written(
    tiny_bundle, name, content, message
):
    (tiny_bundle.folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=message):
        clip = EdgeCLIP.load(tiny_bundle.folder, verify=False)
        clip.encode_image([Image.new("RGB", (9, 9))])


def graph(path, nodes, inputs, output, shape):
    """Write a graph of some nodes from ``pixel_values`` to ``image_embeds``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(*node) for node in nodes],
            "g",
            [helper.make_tensor_value_info(NAMES[0], TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(value, name) for name, value in inputs.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, str(path))
    return model


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([6 * SIZE * SIZE], r"has shape \[384\], not \[B, N\]"),
        ([2, 3, SIZE * SIZE], r"has shape \[2, 3, 64\], not \[B, N\]"),
        ([1, 6 * SIZE * SIZE], "returned 1 rows for 2"),
    ],
)
def test_embeddings_of_another_shape_are_refused(tmp_path, shape, message):
    path = tmp_path / "tower.onnx"
    dimensions = np.array(shape, np.int64)
    graph(path, [("Reshape", [NAMES[0], "s"], [NAMES[1]])], {"s": dimensions}, NAMES[1], None)
    with pytest.raises(BundleError, match=message):
        Tower(path, names=NAMES)(PIXELS)


def test_a_list_of_outputs_is_refused(tmp_path):
    import onnx
    from onnx import helper

    path = tmp_path / "tower.onnx"
    nodes = [("ReduceMean", [NAMES[0]], ["m"]), ("SequenceConstruct", [NAMES[0], "m"], [NAMES[1]])]
    model = graph(path, nodes, {}, NAMES[1], None)
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None))
    model.graph.output[0].type.CopyFrom(kind)
    onnx.save(model, str(path))
    with pytest.raises(BundleError, match="failed on"):
        Tower(path, names=NAMES)(PIXELS)


def test_names_that_are_no_text_are_refused_and_nothing_is_printed(tmp_path, capfd):
    path = tmp_path / "tower.onnx"
    graph(path, [("Flatten", [NAMES[0]], ["image_embeds"])], {}, "image_embeds", None)
    path.write_bytes(path.read_bytes().replace(b"image_embeds", b"image\xff\xfembeds"))
    with pytest.raises(BundleError, match="does not load"):
        OnnxSession(path)
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_that_fails_on_a_text_is_named(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(UNKNOWN))
    tokenizer = ClipTokenizer.from_file(path, CONTEXT)
    assert tokenizer.encode("cat") == [0, 2, 1]
    with pytest.raises(ModelError, match=r"tokenizer\.json is not a tokenizer\.json: .*\[UNK\]"):
        tokenizer.encode("zebra")
    plain = PlainTokenizer(path, CONTEXT, {"clean": "lower", "end": 1})
    for use in (plain.encode, plain.fits):
        with pytest.raises(ModelError, match=r"\[UNK\]"):
            use("zebra")


def test_panics_of_the_library_are_defects_and_interrupts_are_not():
    class PanicException(BaseException):
        pass

    message = "a is not a tokenizer.json: index out of bounds$"
    with pytest.raises(ModelError, match=message), tokenizer_errors("a"):
        raise PanicException("index out of bounds\nnote: more")
    for error in (KeyboardInterrupt, SystemExit):
        with pytest.raises(error), tokenizer_errors("a"):
            raise error
