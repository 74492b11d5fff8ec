"""Changed model files: safetensors, torch checkpoints, ONNX graphs."""

from __future__ import annotations

import copy
import io
import json
import random
import struct

from hostile import ODD
from mutations import changed_bytes, changed_json, changed_zip, places_in


def changed_safetensors(rng: random.Random, valid: bytes) -> bytes:
    """A safetensors file whose JSON header is changed, with a length that fits, or its bytes."""
    if rng.random() < 0.4:
        return changed_bytes(rng, valid)
    (length,) = struct.unpack("<Q", valid[:8])
    header = json.loads(valid[8 : 8 + length])
    metadata = header.get("__metadata__", {})
    key = rng.choice(list(metadata) or ["a"])
    if rng.random() < 0.6 and metadata.get(key, "").startswith("{"):
        metadata[key] = changed_json(rng, metadata[key].encode()).decode("latin-1")
        text = json.dumps(header).encode()
    else:
        text = changed_json(rng, json.dumps(header).encode())
    return struct.pack("<Q", len(text)) + text + valid[8 + length :]


def changed_state(rng: random.Random, valid: bytes) -> bytes:
    """A torch file: its pickle or its bytes changed, or other keys, values and shapes in it."""
    if rng.random() < 0.5 and valid[:2] == b"PK":
        return changed_zip(rng, valid)
    if rng.random() < 0.3:
        return changed_bytes(rng, valid)
    import torch

    state = torch.load(io.BytesIO(valid), weights_only=True)
    for _ in range(rng.randint(1, 3)):
        holder, key = rng.choice(list(places_in(state)) or [(state, "a")])
        value = holder[key] if key in holder or isinstance(holder, list) else None
        choice = rng.random()
        if choice < 0.2 and isinstance(holder, dict):
            holder.pop(key, None)
        elif choice < 0.4 and isinstance(holder, dict):
            holder[rng.choice((f"module.{key}", f"{key}.l", "", 5, None, f"_orig_mod.{key}"))] = (
                value
            )
        elif choice < 0.8 and isinstance(value, torch.Tensor):
            holder[key] = _other_tensor(rng, value)
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _other_tensor(rng: random.Random, value):
    import torch

    # A second change of the same tensor starts from one that can be computed with.
    if value.layout != torch.strided or value.is_meta or not 0 < value.numel() <= 1 << 16:
        value = torch.ones(2, 2)
    one = value.reshape(-1)[:1]
    return rng.choice(
        (
            value.reshape(-1), value[None], value.T if value.ndim == 2 else value.bool(),
            value.long(), value.half(), value.to(torch.complex64), torch.tensor(1.0),
            torch.zeros(0), value * float("nan"), value.to_sparse(), torch.ones(3, 5),
            one.expand(1 << 20), one.expand(1 << 40), one.expand(1 << 20, 1 << 20),
            value.new_empty(value.shape, device="meta"), torch.ones(1, 1, 1, 1),
        )
    )  # fmt: skip


def changed_onnx(rng: random.Random, valid: bytes) -> bytes:
    """An ONNX graph with other operators, shapes, weights, names or inputs; or its bytes."""
    if rng.random() < 0.4:
        return changed_bytes(rng, valid)
    import onnx

    model = onnx.load_from_string(valid)
    for _ in range(rng.randint(1, 3)):
        _change_graph(rng, model)
    return model.SerializeToString()


OPERATORS = ("Identity", "ConstantOfShape", "Loop", "If", "Shape", "Tile", "Softmax", "Nothing",
             "MatMul", "SequenceConstruct", "NonZero", "Size", "Range", "Cast", "")  # fmt: skip


SIZES = (-1, 0, 1, 2, 7, 1 << 31, 1 << 40, (1 << 63) - 1)


def _change_graph(rng: random.Random, model) -> None:
    graph, choice = model.graph, rng.randrange(9)
    node = rng.choice(graph.node) if graph.node else None
    tensor = rng.choice(graph.initializer) if graph.initializer else None
    if choice == 0 and node:
        node.op_type = rng.choice(OPERATORS)
    elif choice == 1 and node and node.attribute:
        attribute = rng.choice(node.attribute)
        attribute.i, attribute.type = rng.choice(SIZES), rng.choice(range(12))
        attribute.ints[:] = [rng.choice(SIZES) for _ in range(rng.randrange(4))]
    elif choice == 2 and tensor:
        tensor.dims[:] = [rng.choice(SIZES) for _ in range(rng.randrange(4))]
    elif choice == 3 and tensor:
        tensor.data_type = rng.randrange(25)
    elif choice == 4 and tensor:
        tensor.data_location = 1
        entry = tensor.external_data.add()
        entry.key, entry.value = (
            "location",
            rng.choice(("/etc/passwd", "../../x", "tokenizer.json")),
        )
    elif choice == 5:
        value = rng.choice([*graph.input, *graph.output])
        shape = value.type.tensor_type
        shape.elem_type = rng.randrange(20)
        shape.shape.dim.add().dim_value = rng.choice(SIZES)
    elif choice == 6 and node:
        node.input[:] = [*[*node.input][::-1], rng.choice(("", "a", node.output[0]))]
    elif choice == 7:
        graph.output[0].name = rng.choice((graph.output[0].name[:-1], "\x7f", ""))
    else:
        entry = model.metadata_props.add()
        entry.key, entry.value = rng.choice(("a", "", "tinyclip_classifier")), "x" * 99
        model.ir_version = rng.choice((0, 8, 99, 1 << 62))
