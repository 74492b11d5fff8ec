"""Contents that readers have fallen over: too deep, too many, too long, or of a size that lies."""

from __future__ import annotations

import tarfile

INTERESTING = (
    b"\x00" * 8,
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"\n",
    b"\r",
    b'"',
    b"\x1f\x8b",
    b"-1",
)
LARGE = 20_000  # brackets, characters or items of a large construct
ODD = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    10**6,
    2**31,
    2**63,
    10**30,
    10**400,
    -0.0,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "a",
    "/etc/passwd",
    "../..",
    "\x00",
    "\ud800",
    "{}",
    "9" * 50,
    "a\nb",
    "x" * LARGE,
    [],
    {},
    [[]],
    [{}],
    {"": None},
    [None],
    [0],
    {"a": [1]},
    [1, 2, 3],
    [0] * LARGE,
)

NAMES = (
    b"a/b.png",
    b"../x.png",
    b"/etc/x.txt",
    b"\xff.jpg",
    b".png",
    b"a.b.c.txt",
    b"\n.jpg",
    b"",
)

HOSTILE_BYTES = (
    b"",
    b"\x00",
    b"\xff",
    b"\n",
    b" ",
    b"\x00" * (1 << 20),
    b"\xff" * (1 << 20),
    b"a" * (1 << 20),
    b"\n" * (1 << 20),
    b"\xef\xbb\xbf",
    "ä".encode("utf-16"),
    "ä".encode("latin-1"),
    b"a\rb\rc",
)
HOSTILE_JSON = (
    b"[" * LARGE,
    b"[" * LARGE + b"]" * LARGE,
    b'{"a":' * LARGE,
    b'{"a":' * 500 + b"1" + b"}" * 500,
    b"9" * LARGE,
    b"-" + b"9" * LARGE,
    b"1e999999",
    b"-Infinity",
    b"NaN",
    b"null",
    b"5",
    b'"a"',
    b"[]",
    b"{}",
    b'{"a":1,"a":2}',
    b'"\\ud800"',
    b'{"\\ud800":"\\udfff"}',
    b'"' + b"\\u0000" * 9 + b'"',
    b"[" + b"[]," * LARGE + b"[]]",
    b"\xef\xbb\xbf{}",
)
BOMB = b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 9)
)
MERGES = BOMB.replace(b"[", b"{<<: [").replace(b"]", b"]}")
HOSTILE_YAML = (
    b"[" * 5000,
    b"{" * 5000,
    b"- " * 5000,
    b"? " * 5000,
    b"a: &a [*a]",
    b"&a {*a : 1}",
    b"a: *b",
    b"seed: !!int ''",
    b"seed: !!float ''",
    b"seed: !!bool x",
    b"seed: !!timestamp x",
    b"seed: !!binary x",
    b"seed: !!map x",
    b"seed: !!seq x",
    b"seed: !!set x",
    b"seed: !!omap x",
    b"seed: !!pairs [x]",
    b"seed: !!null x",
    b"seed: !!python/name:os.system x",
    b"seed: !x x",
    b"!!int '': 1",
    b"[]: 1",
    b"seed: 0x" + b"f" * 6000,
    b"seed: " + b"9" * 6000,
    b"seed: 0b" + b"1" * 60_000,
    b"seed: 1:99:99",
    b"seed: 2026-13-45",
    b"seed: =",
    b"<<: 1",
    b"<<: [1]",
    b"%YAML 9.9\n--- a",
    b"%TAG ! x\n---\n!a b",
    b"a: 1\n---\nb: 2",
    b"--- |9\n a",
    b"\t- a",
    b"a: 'b",
    b'a: "\\x"',
    b"'\\ud800'",
    b"1: 2",
    b"null: 2",
    b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + BOMB,
    b"a0: &a0 {x: 1}\n" + MERGES,
    b"teacher: &a [" + b"x," * LARGE + b"]",
)


def sign(block: bytearray) -> None:
    """Write the checksum of a tar header."""
    if len(block) == 512:
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\x00 " % sum(block)


def tar_header(name: bytes, kind: bytes, size: int) -> bytes:
    """Return one block of a tar."""
    member = tarfile.TarInfo("a")
    member.size, member.type = size, kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[0:100] = name.ljust(100, b"\x00")
    sign(block)
    return bytes(block)


def hostile_tars() -> list[bytes]:
    """Return headers that claim much, or chains of them."""
    huge = b"30 size=99999999999999999999\n".ljust(512, b"\x00")
    long = tar_header(b"././@LongLink", b"L", 1 << 34)
    return [
        long + b"a" * 4096,
        tar_header(b"pax", b"x", 1 << 34) + b"a" * 4096,
        tar_header(b"pax", b"g", 1 << 34) + b"9" * 4096,
        tar_header(b"a.png", b"0", 1 << 34) + b"a" * 4096,
        tar_header(b"a.png", b"S", 1 << 34) + b"a" * 4096,
        (tar_header(b"././@LongLink", b"L", 5) + b"a.png".ljust(512, b"\x00")) * 4000,
        (tar_header(b"pax", b"x", 12) + b"12 path=ab.c\n".ljust(512, b"\x00")) * 4000,
        tar_header(b"pax", b"g", 0) * 8000,
        tar_header(b"pax", b"x", 30) + huge + tar_header(b"a.png", b"0", 1),
        tar_header(b"a.png", b"0", 0) * 8000,
        b"".join(tar_header(b"a.%d.png" % n, b"0", 0) for n in range(4000)),
    ]
