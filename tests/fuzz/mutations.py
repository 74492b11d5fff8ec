"""Seeded changes to valid files: of their bytes, and of what their format means."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml
from hostile import (
    HOSTILE_BYTES,
    HOSTILE_JSON,
    HOSTILE_YAML,
    INTERESTING,
    ODD,
    hostile_tars,
    sign,
)

Mutation = Callable[[random.Random, bytes], bytes]


def changed_bytes(rng: random.Random, valid: bytes) -> bytes:
    """Cut, splice, or replace some bytes; now and then random bytes alone."""
    choice = rng.random()
    if choice < 0.05:
        return rng.randbytes(rng.randrange(200))
    if choice < 0.15:
        return valid[: rng.randrange(len(valid) + 1)]
    content = bytearray(valid)
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(content) + 1)
        if rng.random() < 0.2 and valid:  # splice
            start = rng.randrange(len(valid))
            put = valid[start : start + rng.randrange(1, 256)]
        elif rng.random() < 0.5:
            put = rng.randbytes(rng.randint(1, 8))
        else:
            put = rng.choice(INTERESTING)
        content[at : at + rng.choice((0, 1, len(put), 64))] = put
    return bytes(content)


def changed_value(rng: random.Random, valid: object) -> object:
    """Replace, remove, rename or add one to three parts of a JSON value."""
    value = copy.deepcopy(valid)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return copy.deepcopy(rng.choice(ODD))
        holder, key = rng.choice(places)
        change = rng.random()
        odd = copy.deepcopy(rng.choice(ODD))
        if change < 0.6:
            holder[key] = odd
        elif change < 0.75:
            del holder[key]
        elif change < 0.85 and isinstance(holder, dict):
            holder[rng.choice(("", "a", "\ud800", "x" * 300, f"{key}s"))] = holder.pop(key)
        elif isinstance(holder, dict):
            holder[rng.choice(("b", "name", "path", "é\n"))] = odd
        else:
            holder.insert(rng.randrange(len(holder) + 1), odd)
    return value


def _places(value: object):
    if not isinstance(value, (dict, list)):
        return
    for key in list(value) if isinstance(value, dict) else range(min(len(value), 8)):
        yield value, key
        yield from _places(value[key])


def changed_json(rng: random.Random, valid: bytes) -> bytes:
    """A JSON text: its value changed, or its bytes; now and then a hostile text, or one inside."""
    choice = rng.random()
    if choice < 0.03:
        return rng.choice(HOSTILE_JSON + HOSTILE_BYTES)
    if choice < 0.3:
        return changed_bytes(rng, valid)
    try:
        value = changed_value(rng, json.loads(valid))
    except (ValueError, RecursionError):  # a line that was changed before
        return changed_bytes(rng, valid)
    text = json.dumps(value).encode()
    if rng.random() < 0.03:
        text = text.replace(b"null", rng.choice(HOSTILE_JSON), 1)
    return text


def changed_json_lines(rng: random.Random, valid: bytes) -> bytes:
    """Lines of JSON of which one or two are changed."""
    lines = valid.split(b"\n")
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(lines))
        lines[at] = changed_json(rng, lines[at] if lines[at].strip() else b"{}")
    return b"\n".join(lines)


def changed_yaml(rng: random.Random, valid: bytes) -> bytes:
    """A YAML text: its value changed, its bytes, or a value that has a hostile tag or size."""
    choice = rng.random()
    if choice < 0.03:
        return rng.choice(HOSTILE_YAML + HOSTILE_BYTES)
    if choice < 0.3:
        return changed_bytes(rng, valid)
    if choice < 0.5:
        lines = valid.split(b"\n")
        at = rng.randrange(len(lines))
        key, colon, _ = lines[at].partition(b":")
        tail = rng.choice(HOSTILE_YAML)
        tail = tail.removeprefix(b"seed: ").split(b"\n")[0]
        lines[at] = key + colon + b" " + tail
        return b"\n".join(lines)
    value = changed_value(rng, yaml.safe_load(valid))
    return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")


def changed_tar(rng: random.Random, valid: bytes) -> bytes:
    """A tar whose headers are changed with a checksum that fits, or whose bytes are changed."""
    choice = rng.random()
    if choice < 0.02:
        return rng.choice(hostile_tars() + list(HOSTILE_BYTES))
    if choice < 0.25:
        return changed_bytes(rng, valid)
    blocks = [bytearray(valid[at : at + 512]) for at in range(0, len(valid), 512)]
    headers = [at for at, block in enumerate(blocks) if block[257:262] == b"ustar"]
    for _ in range(rng.randint(1, 3)):
        at = rng.choice(headers)
        block = blocks[at]
        field = rng.randrange(7)
        if field == 0:
            block[124:136] = rng.choice(
                (b"77777777777\x00", b"00000000000\x00", b"\x80" + b"\x00" * 3 + b"\xff" * 8,
                 b"-0000000001\x00", b"            ", b"00000000777\x00", b"\xff" * 12)
            )  # fmt: skip
        elif field == 1:
            block[156:157] = rng.choice([bytes([c]) for c in b"0123456LKxgSVMN\x00\xff"])
        elif field == 2:
            name = rng.choice(
                (
                    b"a/b.png",
                    b"../x.png",
                    b"/etc/x.txt",
                    b"\xff.jpg",
                    b".png",
                    b"a.b.c.txt",
                    b"\n.jpg",
                    b"",
                )
            )
            block[0:100] = name.ljust(100, b"\x00")
        elif field == 3:
            blocks[at] = bytearray(blocks[rng.choice(headers)])
        elif field == 4:
            blocks.insert(at, bytearray(blocks[rng.choice(headers)]))
            headers = [h + (h >= at) for h in headers]
        elif field == 5:
            block[345:500] = rng.choice((b"p" * 155, b"\x00" * 155, b"../" * 51 + b"\x00\x00"))
        else:
            block[rng.randrange(512)] = rng.randrange(256)
        sign(block)
    return b"".join(bytes(block) for block in blocks)


def zipped(mutation: Mutation) -> Mutation:
    """Return a mutation of a gzip: mostly of what is in it, else of its own bytes."""

    def changed(rng: random.Random, valid: bytes) -> bytes:
        if rng.random() < 0.3:
            return changed_bytes(rng, valid)
        inner = mutation(rng, gzip.decompress(valid))
        return gzip.compress(inner, compresslevel=1, mtime=0)

    return changed


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


def changed_zip(rng: random.Random, valid: bytes) -> bytes:
    """A zip one of whose members is changed, missing, twice or compressed; or its bytes."""
    if rng.random() < 0.4:
        return changed_bytes(rng, valid)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(valid)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        struck = rng.choice(names)
        for name in names:
            content, kind = old.read(name), zipfile.ZIP_STORED
            if name == struck:
                choice = rng.random()
                if choice < 0.1:
                    continue
                if choice < 0.2:
                    kind = zipfile.ZIP_DEFLATED
                else:
                    content = changed_bytes(rng, content)
            new.writestr(name, content, kind)
    return buffer.getvalue()


def changed_file(kinds: Mapping[str, Mutation]) -> Mutation:
    """Return a mutation of one file of a folder, as ``named`` gives it; now and then not a file."""

    def changed(rng: random.Random, valid: bytes) -> bytes:
        name, _, content = valid.partition(b"\n")
        if rng.random() < 0.02:
            return name + rng.choice((MISSING, FOLDER, LINK, LOOP)) + b"\n"
        return name + b"\n" + kinds[name.decode()](rng, content)

    return changed


MISSING, FOLDER, LINK, LOOP = b" is missing", b" is a folder", b" is a link", b" is a loop"


def named(name: str, content: bytes) -> bytes:
    """Return a file of a folder as one input."""
    return name.encode() + b"\n" + content


@contextmanager
def put(folder: Path, given: bytes) -> Iterator[str]:
    """Have a folder hold what ``changed_file`` made, then again what it held; give the name."""
    first, _, content = given.partition(b"\n")
    state = next((one for one in (MISSING, FOLDER, LINK, LOOP) if first.endswith(one)), b"")
    name = first.removesuffix(state).decode()
    path = folder / name
    whole = path.read_bytes()
    path.unlink()
    if state == FOLDER:
        path.mkdir()
    elif state in (LINK, LOOP):
        path.symlink_to("/etc/passwd" if state == LINK else path.name)
    elif not state:
        path.write_bytes(content)
    try:
        yield name
    finally:
        shutil.rmtree(path) if state == FOLDER else path.unlink(missing_ok=True)
        path.write_bytes(whole)


def changed_state(rng: random.Random, valid: bytes) -> bytes:
    """A torch file: its pickle or its bytes changed, or other keys, values and shapes in it."""
    if rng.random() < 0.5 and valid[:2] == b"PK":
        return changed_zip(rng, valid)
    if rng.random() < 0.3:
        return changed_bytes(rng, valid)
    import torch

    state = torch.load(io.BytesIO(valid), weights_only=True)
    for _ in range(rng.randint(1, 3)):
        holder, key = rng.choice(list(_places(state)) or [(state, "a")])
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
