"""A bundle of two hand-made ONNX graphs, small enough to recompute with numpy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIZE, DIM, CONTEXT = 8, 4, 16
LOGIT_SCALE = 10.0


@dataclass(frozen=True)
class TinyBundle:
    """The folder and the weights behind its graphs."""

    folder: Path
    projection: np.ndarray  # [3, D]: mean colour -> embedding
    table: np.ndarray  # [vocabulary, D]: token embeddings, averaged

    def expected_image(self, pixels):
        """Embedding of float32 [3, H, W]."""
        return unit(pixels.mean(axis=(1, 2)) @ self.projection)

    def expected_text(self, tokens):
        """Embedding of a list of token ids."""
        return unit(self.table[tokens].mean(axis=0))


def unit(vector):
    return vector / np.linalg.norm(vector)


def write_tiny_tokenizer(path: Path) -> int:
    """Write a byte-level CLIP tokenizer with three merges; return the size of its vocabulary."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["ca", "cat</w>", "re", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate([*letters, *(x + "</w>" for x in letters)])}
    for word in words:
        vocabulary[word] = len(vocabulary)
    merges = [("c", "a"), ("ca", "t</w>"), ("r", "e")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>", unk_token=None)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    tokenizer.save(str(path))
    return len(vocabulary)


def write_tiny_graphs(folder: Path, projection: np.ndarray, table: np.ndarray) -> None:
    """Write both towers, twice under the names of both precisions."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def save(name, nodes, inputs, output, weights):
        norm = [
            helper.make_node("ReduceL2", ["features"], ["norm"], axes=[-1], keepdims=1),
            helper.make_node("Div", ["features", "norm"], [output]),
        ]
        graph = helper.make_graph(
            [*nodes, *norm],
            name,
            [inputs],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", DIM])],
            [numpy_helper.from_array(value, key) for key, value in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        for suffix in ("", "_quantized"):
            onnx.save(model, folder / "onnx" / f"{name}{suffix}.onnx")

    save(
        "vision_model",
        [
            helper.make_node("ReduceMean", ["pixel_values"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["mean", "projection"], ["features"]),
        ],
        helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE]),
        "image_embeds",
        {"projection": projection},
    )
    save(
        "text_model",
        [
            helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
            helper.make_node("ReduceMean", ["tokens"], ["features"], axes=[1], keepdims=0),
        ],
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"]),
        "text_embeds",
        {"table": table},
    )


def write_tiny_bundle(folder: Path) -> TinyBundle:
    from tinyclip_edge.runtime.bundle import Manifest, list_files

    (folder / "onnx").mkdir(parents=True)
    vocabulary = write_tiny_tokenizer(folder / "tokenizer.json")
    rng = np.random.default_rng(5)
    projection = rng.normal(size=(3, DIM)).astype(np.float32)
    table = rng.normal(size=(vocabulary, DIM)).astype(np.float32)
    write_tiny_graphs(folder, projection, table)
    settings = {
        "size": {"shortest_edge": SIZE},
        "crop_size": {"height": SIZE, "width": SIZE},
        "do_center_crop": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.25, 0.3],
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    Manifest(
        created_by="test",
        name="tiny",
        source={"model": "hand-made", "sha256": "ab" * 32},
        model_hash="ab" * 32,
        image_size=SIZE,
        embedding_dim=DIM,
        context_length=CONTEXT,
        logit_scale=LOGIT_SCALE,
        eot_token_id=vocabulary - 1,
        parameters={"image": 12, "text": 0, "token_embedding": int(table.size)},
        default_precision="int8",
        towers={
            tower: {"fp32": f"onnx/{name}.onnx", "int8": f"onnx/{name}_quantized.onnx"}
            for tower, name in (("image", "vision_model"), ("text", "text_model"))
        },
        files=list_files(folder),
        recipe={"int8": {"reduce_range": False}},
    ).write(folder)
    return TinyBundle(folder, projection, table)
