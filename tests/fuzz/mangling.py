"""What a fuzz test gives a reader: junk, or a valid file with some of it changed."""

from __future__ import annotations

import copy
import json
import os
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tinyclip_edge.errors import TinyClipError

# The same examples in every run, unless FUZZ_EXAMPLES asks for more and others. A reader that does
# not end, or takes seconds over a few bytes, fails by the deadline.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
quick = settings(
    max_examples=EXAMPLES or 60,
    deadline=timedelta(seconds=20),
    derandomize=not EXAMPLES,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
few = settings(quick, max_examples=EXAMPLES or 25)

ODD_NUMBERS = [-1, 0, 1, 2, 10**6, 2**31, 2**63, 10**30, 10**400, -0.0, 0.5, 1e308]
ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([*ODD_NUMBERS, float("nan"), float("inf")]),
    st.sampled_from(["", "a", "/etc/passwd", "../..", "\x00", "\ud800", "{}", "9" * 50, "a\nb"]),
    st.text(max_size=6),
    st.sampled_from([[], {}, [[]], [{}], {"": None}, [None], [0], {"a": [1]}, [1, 2, 3]]),
)


def junk(valid: bytes) -> st.SearchStrategy[bytes]:
    """Random bytes, or `valid` cut, or with some bytes replaced, put in, taken out or repeated."""
    return st.one_of(st.binary(max_size=200), _cut(valid), _edited(valid))


def _cut(valid: bytes) -> st.SearchStrategy[bytes]:
    return st.integers(0, len(valid)).map(lambda end: valid[:end])


@st.composite
def _edited(draw, valid: bytes) -> bytes:
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        put = draw(
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.sampled_from([b"\x00" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\n", b'"']),
            )
        )
        out = draw(st.sampled_from([0, 1, len(put), 64]))
        content[at : at + out] = put
    return bytes(content)


@st.composite
def mangled(draw, valid: object) -> object:
    """A JSON value with one to three of its parts replaced, taken out or renamed."""
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if change == "replace":
            holder[key] = copy.deepcopy(draw(ODD_VALUES))
        elif change == "remove":
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=5))] = copy.deepcopy(draw(ODD_VALUES))
        else:
            holder.append(copy.deepcopy(draw(ODD_VALUES)))
    return value


def mangled_json(valid: object) -> st.SearchStrategy[bytes]:
    """A JSON file: changed as a value, or as bytes."""
    whole = json.dumps(valid).encode()
    values = mangled(valid).map(lambda value: json.dumps(value).encode())
    return st.one_of(values, values, values, junk(whole))


def _places(value: object):
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = list(range(min(len(value), 8)))
    else:
        return
    for key in keys:
        yield value, key
        yield from _places(value[key])


def only_our_errors(call, *others: type[Exception]) -> None:
    """Call; anything but our own error of one line, or one of the reader's own kinds, fails."""
    try:
        call()
    except others:
        pass
    except TinyClipError as error:
        assert str(error)
        assert len(str(error).splitlines()) == 1, str(error)
    except BaseException as error:
        # A panic of a Rust library is no Exception.
        if isinstance(error, (KeyboardInterrupt, pytest.fail.Exception)):
            raise
        raise AssertionError(f"{type(error).__name__}: {error}") from error
