"""Seeded changes to valid files: of their bytes, and of what their format means."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import shutil
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
    NAMES,
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
            inserted = valid[start : start + rng.randrange(1, 256)]
        elif rng.random() < 0.5:
            inserted = rng.randbytes(rng.randint(1, 8))
        else:
            inserted = rng.choice(INTERESTING)
        content[at : at + rng.choice((0, 1, len(inserted), 64))] = inserted
    return bytes(content)


def changed_value(rng: random.Random, valid: object) -> object:
    """Replace, remove, rename or add one to three parts of a JSON value."""
    value = copy.deepcopy(valid)
    for _ in range(rng.randint(1, 3)):
        places = list(places_in(value))
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


def places_in(value: object):
    """Yield each place of a nested value that can be changed."""
    if not isinstance(value, (dict, list)):
        return
    for key in list(value) if isinstance(value, dict) else range(min(len(value), 8)):
        yield value, key
        yield from places_in(value[key])


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
            block[0:100] = rng.choice(NAMES).ljust(100, b"\x00")
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
def placed(folder: Path, data: bytes) -> Iterator[str]:
    """Have a folder hold what ``changed_file`` made, then again what it held; give the name."""
    first, _, content = data.partition(b"\n")
    state = next((one for one in (MISSING, FOLDER, LINK, LOOP) if first.endswith(one)), b"")
    name = first.removesuffix(state).decode()
    path = folder / name
    original = path.read_bytes()
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
        path.write_bytes(original)
