"""Headers that nobody's library wrote: none crashes the reader, hangs it, or makes it hold much, and none that the
safetensors library refuses passes."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save
from support.adapters import lora_tensors
from support.fixtures import Limits
from support.soak import scale
from support.weights import LORA

from registry.artifacts.admission.inspection import inspect_weights
from registry.artifacts.long_facts import holding_facts, take_turn
from registry.errors import Verification
from sdk.errors import InvalidBase, VerificationFailed
from sdk.lora.tensors import read_tensors
from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import scan_base

#: What a reader may hold beside twice the file: a chunk of data, its magnitudes, and what Python itself takes.
SPARE_BYTES = 4 * 1024 * 1024
#: Processor time for one small file; it is a thousandth of this.
MOST_S = 2.0
#: As many at a time have their memory watched together.
BATCH = 250

NUMBERS = (
    "-1", "-0", "00", "01", "0.0", "1.0", "1e0", "1E400", "0x1", "+1", "NaN", "Infinity", "null", "true", '"1"', "[]", "{}",
    "18446744073709551615", "18446744073709551616", "9223372036854775807", "9223372036854775808", "9" * 400, "4294967296",
)  # fmt: skip
TYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "U8", "BOOL", "C64", "f32", "", "F320", "\\u0046")
PIECES = (
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b" ", b"\t", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xc3\xa9", b"\\u0041", b"\\ud800",
    b"\xed\xa0\x80", b"/*x*/", b"__metadata__", b'"__metadata__":{"format":"pt"},', b'"__metadata__":null,', b'"x":1,', b"..", b"null",
)  # fmt: skip


def packed(header: bytes, data: bytes) -> bytes:
    """Return a file of this header."""
    return struct.pack("<Q", len(header)) + header + data


def parted(raw: bytes) -> tuple[bytes, bytes]:
    """Return a file's header and data."""
    (length,) = struct.unpack("<Q", raw[:8])
    return raw[8 : 8 + length], raw[8 + length :]


def seeds() -> list[bytes]:
    """Return whole files of several writers."""
    found = [
        save(lora_tensors(), metadata={"format": "pt"}),
        save(lora_tensors(dtype="float16")),
        save({"a": np.ones(3, "float64"), "b.c": np.ones((1, 2, 3), "float32"), "d": np.zeros(1, "float16")}),
        save({f"t{n}": np.ones(1 + n % 3, "float32") for n in range(12)}, metadata={"note": 'é "\\\n', "b": ""}),
    ]
    header, data = parted(found[0])
    tree = json.loads(header)
    # Other orders and spaces than the library's, which it reads all the same.
    found.append(packed(json.dumps(tree, indent=1, sort_keys=True).encode() + b"\n ", data))
    found.append(packed(json.dumps(dict(reversed(tree.items()))).encode(), data))
    bf16 = {"x": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}
    found.append(packed(json.dumps(bf16, separators=(",", ":")).encode(), b"\x80\x3f" * 4))
    return found


def flip(rng: random.Random, header: bytes, data: bytes) -> bytes:
    raw = bytearray(packed(header, data))
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        raw[rng.randrange(8 + len(header))] ^= 1 << rng.randrange(8)
    return bytes(raw)


def truncate(rng: random.Random, header: bytes, data: bytes) -> bytes:
    raw = packed(header, data)
    return raw[: rng.randrange(len(raw))] if rng.random() < 0.5 else packed(header[: rng.randrange(len(header))], data)


def extend(rng: random.Random, header: bytes, data: bytes) -> bytes:
    more = rng.choice((b" ", b"\n", b"\x00", b"}", b"{}", b" " * 7)) * rng.randint(1, 3)
    return packed(header, data + more) if rng.random() < 0.4 else packed(header + more, data)


def splice(rng: random.Random, header: bytes, data: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(header) + 1) for _ in range(2))
    at = rng.randrange(len(header) + 1)
    return packed(rng.choice((header[:a] + header[b:], header[:at] + header[a:b] + header[at:])), data)


def insert(rng: random.Random, header: bytes, data: bytes) -> bytes:
    at = rng.randrange(len(header) + 1)
    return packed(header[:at] + rng.choice(PIECES) * rng.choice((1, 1, 1, 3)) + header[at:], data)


def replace_number(rng: random.Random, header: bytes, data: bytes) -> bytes:
    at = rng.choice(list(re.finditer(rb"\d+", header)))
    other = rng.choice((*NUMBERS, str(int(at[0]) + rng.choice((-1, 1, 2, 4, 8))), str(rng.randrange(200))))
    return packed(header[: at.start()] + other.encode() + header[at.end() :], data)


def replace_type(rng: random.Random, header: bytes, data: bytes) -> bytes:
    at = rng.choice(list(re.finditer(rb'"(?:F64|F32|F16|BF16)"', header)))
    other = rng.choice((*(f'"{name}"' for name in TYPES), "4", "null", '["F32"]'))
    return packed(header[: at.start()] + other.encode() + header[at.end() :], data)


def change_tree(rng: random.Random, header: bytes, data: bytes) -> bytes:
    """Change what the header says, and write it as JSON again."""
    tree: dict[str, Any] = json.loads(header)
    names = [name for name in tree if name != "__metadata__"]
    one, other = rng.choice(names), rng.choice(names)
    kind = rng.randrange(9)
    if kind == 0:
        tree[one], tree[other] = tree[other], tree[one]
    elif kind == 1:
        tree[one] = tree[other]
    elif kind == 2:
        tree[rng.choice(("../x", "a\0b", "é", "", "a b", "x" * 600, "__metadata__", "a..b"))] = tree.pop(one)
    elif kind == 3:
        tree[one][rng.choice(("extra", "dtype ", "Shape"))] = rng.choice((1, None, [], {}))
    elif kind == 4:
        tree[one].pop(rng.choice(("dtype", "shape", "data_offsets")))
    elif kind == 5:
        tree[one]["shape"] = rng.choice(
            ([], [0], [1] * 9, [2**32, 2**32], [1, *tree[one]["shape"]], tree[one]["shape"][::-1])
        )
    elif kind == 6:
        tree[one]["data_offsets"] = rng.choice(
            ([], [0], tree[one]["data_offsets"][::-1], tree[other]["data_offsets"], [2**64, 0])
        )
    elif kind == 7:
        tree["__metadata__"] = rng.choice((None, [], "x", {}, {"a": 1}, {"a": None}, {"a": {"b": "c"}}, {"a": "b"}))
    else:
        del tree[one]
    return packed(json.dumps(tree, separators=rng.choice(((",", ":"), (", ", ": ")))).encode(), data)


def duplicate(rng: random.Random, header: bytes, data: bytes) -> bytes:
    text = header.decode()
    at = rng.choice(list(re.finditer(r'"(dtype|shape|data_offsets|[\w.]+)":\s*("\w+"|\[[^\]]*\]|\{[^{}]*\})', text)))
    return packed((text[: at.start()] + at[0] + "," + text[at.start() :]).encode(), data)


def nest(rng: random.Random, header: bytes, data: bytes) -> bytes:
    depth = rng.choice((2, 50, 127, 128, 129, 1000, 5000))
    opened, closed = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    at = rng.choice(list(re.finditer(rb'"\w+"|\d+|\{|\[', header))).start()
    return packed(header[:at] + opened * depth + b"1" + closed * rng.choice((depth, 0)) + header[at:], data)


def change_length(rng: random.Random, header: bytes, data: bytes) -> bytes:
    length = rng.choice(
        (0, 1, 7, max(len(header) - 1, 0), len(header) + 1, len(header) + len(data), 2**31, 2**32, 2**63, 2**64 - 1)
    )
    return struct.pack("<Q", length) + header + data


def garbage(rng: random.Random, header: bytes, data: bytes) -> bytes:
    return (
        packed(b"{" + rng.randbytes(rng.randrange(60)), data)
        if rng.random() < 0.5
        else rng.randbytes(rng.randrange(80))
    )


MUTATIONS: tuple[Callable[[random.Random, bytes, bytes], bytes], ...] = (
    flip, truncate, extend, splice, insert, replace_number, replace_type, change_tree, duplicate, nest, change_length, garbage,
)  # fmt: skip


@contextmanager
def watched(most_bytes: int) -> Iterator[None]:
    """Fail where more than this is held at a time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most_bytes, f"{peak} bytes were held, {most_bytes} are allowed"


def accepted(raw: bytes) -> bool:
    """Whether the reader takes a file; nothing but Verification may come of the others."""
    with holding_facts():
        take_turn(len(raw))
        try:
            inspect_weights(io.BytesIO(raw), size_bytes=len(raw), lora=LORA)
        except Verification:
            return False
    return True


def library_reads(raw: bytes) -> bool:
    """Whether the safetensors library takes a file."""
    try:
        deserialize(raw)
    except SafetensorError:
        return False
    return True


def mutated(rng: random.Random, whole: list[bytes]) -> tuple[str, bytes]:
    """Return a file that was changed, mostly once, and the name of the last change."""
    raw = rng.choice(whole)
    for _ in range(rng.choice((1, 1, 1, 2))):
        header, data = parted(raw) if len(raw) >= 8 else (b"", b"")
        mutation = rng.choice(MUTATIONS)
        try:
            raw = mutation(rng, header, data)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError):
            # What the first change left has no such part to change.
            continue
    return mutation.__name__, raw


@pytest.mark.soak
def test_no_changed_header_crashes_hangs_swells_or_passes_unread() -> None:
    whole = seeds()
    for raw in whole:
        assert accepted(raw)
        assert library_reads(raw)
    rng = random.Random(20_240)
    outcomes: Counter[tuple[str, bool]] = Counter()
    left = scale(200_000)
    while left > 0:
        batch = [mutated(rng, whole) for _ in range(min(left, BATCH))]
        left -= len(batch)
        taken = []
        with watched(2 * max(len(raw) for _, raw in batch) + SPARE_BYTES):
            for name, raw in batch:
                started = time.thread_time()
                passed = accepted(raw)
                assert time.thread_time() - started < MOST_S, raw
                outcomes[name, passed] += 1
                if passed:
                    taken.append(raw)
        for raw in taken:
            assert library_reads(raw), raw
    # Every kind of change was tried, most of what they made was refused, and some was not.
    assert {name for name, _ in outcomes} == {mutation.__name__ for mutation in MUTATIONS}
    passed = sum(count for (_, good), count in outcomes.items() if good)
    assert 0 < passed < sum(outcomes.values()) / 4


def entries(count: int, dtypes: tuple[tuple[str, int], ...] = (("F16", 2),)) -> bytes:
    """Return a file of as many tensors of one number each, with the shortest names."""
    parts, position = [], 0
    for number in range(count):
        dtype, item = dtypes[number % len(dtypes)]
        parts.append(f'"{number:x}":{{"dtype":"{dtype}","shape":[1],"data_offsets":[{position},{position + item}]}}')
        position += item
    return packed(("{" + ",".join(parts) + "}").encode(), b"\1" * position)


ONE = '{"dtype":"F16","shape":[1],"data_offsets":[0,2]}'
#: Attack to the header of a file with two bytes of data.
ATTACKS: dict[str, bytes] = {
    "duplicate name": f'{{"a":{ONE},"a":{ONE}}}'.encode(),
    "duplicate by escape": f'{{"a":{ONE},"\\u0061":{ONE}}}'.encode(),
    "duplicate field": b'{"a":{"dtype":"F16","dtype":"F16","shape":[1],"data_offsets":[0,2]}}',
    "extra field": b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2],"x":1}}',
    "no field": b'{"a":{"dtype":"F16","shape":[1]}}',
    "trailing comma": f'{{"a":{ONE},}}'.encode(),
    "trailing comma in entry": b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2],}}',
    "trailing comma in shape": b'{"a":{"dtype":"F16","shape":[1,],"data_offsets":[0,2]}}',
    "leading comma": f'{{,"a":{ONE}}}'.encode(),
    "comment": f'{{"a":{ONE}/**/}}'.encode(),
    "single quotes": f"{{'a':{ONE}}}".encode(),
    "leading space": f' {{"a":{ONE}}}'.encode(),
    "byte order mark": b"\xef\xbb\xbf" + f'{{"a":{ONE}}}'.encode(),
    "utf-16": f'{{"a":{ONE}}}'.encode("utf-16-le"),
    "two objects": f'{{"a":{ONE}}}{{}}'.encode(),
    "NUL after": f'{{"a":{ONE}}}\0'.encode(),
    "list": f"[{ONE}]".encode(),
    "NUL in name": f'{{"a\\u0000b":{ONE}}}'.encode(),
    "parent in name": f'{{"a/../b":{ONE}}}'.encode(),
    "dots in name": f'{{"a..b":{ONE}}}'.encode(),
    "name of a path": f'{{"enc/a:0":{ONE}}}'.encode(),
    "empty name": f'{{"":{ONE}}}'.encode(),
    "invalid utf-8": b'{"a\xff":' + ONE.encode() + b"}",
    "invalid utf-8 in metadata": b'{"__metadata__":{"a":"\xed\xa0\x80"},"a":' + ONE.encode() + b"}",
    "half a surrogate pair": f'{{"__metadata__":{{"a":"\\ud800"}},"a":{ONE}}}'.encode(),
    "two low halves": f'{{"__metadata__":{{"a":"\\udc00\\udc00"}},"a":{ONE}}}'.encode(),
    "two high halves": f'{{"__metadata__":{{"a":"\\ud800\\ud800"}},"a":{ONE}}}'.encode(),
    "unknown escape": f'{{"__metadata__":{{"a":"\\x41"}},"a":{ONE}}}'.encode(),
    "control character": f'{{"__metadata__":{{"a":"\n"}},"a":{ONE}}}'.encode(),
    "metadata of numbers": f'{{"__metadata__":{{"a":1}},"a":{ONE}}}'.encode(),
    "metadata of null": f'{{"__metadata__":{{"a":null}},"a":{ONE}}}'.encode(),
    "metadata nested": f'{{"__metadata__":{{"a":{{"b":"c"}}}},"a":{ONE}}}'.encode(),
    "metadata twice": f'{{"__metadata__":{{}},"__metadata__":{{}},"a":{ONE}}}'.encode(),
    "metadatum twice": f'{{"__metadata__":{{"a":"b","\\u0061":"c"}},"a":{ONE}}}'.encode(),
    "metadata without end": f'{{"__metadata__":{{"a":"b","a":{ONE}}}'.encode(),
    "zero tensor": f'{{"z":{{"dtype":"F16","shape":[0],"data_offsets":[0,0]}},"a":{ONE}}}'.encode(),
    "empty shape": b'{"a":{"dtype":"F16","shape":[],"data_offsets":[0,2]}}',
    "many dimensions": b'{"a":{"dtype":"F16","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,2]}}',
    "overflowing shape": b'{"a":{"dtype":"F16","shape":[4294967296,4294967296,1],"data_offsets":[0,2]}}',
    "wrapping shape": b'{"a":{"dtype":"F16","shape":[9223372036854775809],"data_offsets":[0,2]}}',
    "large offset": b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[18446744073709551614,18446744073709551616]}}',
    "offsets turned": b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[2,0]}}',
    "negative offset": b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[-2,0]}}',
    "leading zero": b'{"a":{"dtype":"F16","shape":[01],"data_offsets":[0,2]}}',
    "fraction": b'{"a":{"dtype":"F16","shape":[1.0],"data_offsets":[0,2]}}',
    "exponent": b'{"a":{"dtype":"F16","shape":[1e0],"data_offsets":[0,2]}}',
    "flag": b'{"a":{"dtype":"F16","shape":[true],"data_offsets":[0,2]}}',
    "digits without end": b'{"a":{"dtype":"F16","shape":[' + b"1" * 100_000 + b'],"data_offsets":[0,2]}}',
    "same bytes twice": f'{{"a":{ONE},"b":{ONE}}}'.encode(),
    "hole": b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[1,3]}}',
    "nothing described": b"{}",
    "unknown type": b'{"a":{"dtype":"F12","shape":[1],"data_offsets":[0,2]}}',
    "whole numbers": b'{"a":{"dtype":"I16","shape":[1],"data_offsets":[0,2]}}',
    "deep": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "deep list": b'{"a":' + b"[" * 100_000,
    "text without end": b'{"' + b"a" * 100_000,
    "escapes without end": b'{"' + b"\\n" * 100_000,
    "spaces without end": b"{" + b" " * 100_000,
    "empty": b"",
}


@pytest.mark.parametrize("header", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_is_refused_at_once(header: bytes) -> None:
    raw = packed(header, b"\0\x3c")
    started = time.thread_time()
    with watched(2 * len(raw) + SPARE_BYTES):
        assert not accepted(raw)
    assert time.thread_time() - started < MOST_S


#: What no adapter has and a base may: quantised weights, single numbers and empty parts beside them, names of any library.
OF_BASES: dict[str, dict[str, list[int]]] = {
    "whole numbers": {"a": [1]},
    "empty shape": {"a": []},
    "zero tensor": {"z": [0], "a": [1]},
    "name of a path": {"enc/a:0": [1]},
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_by_those_who_read_a_folder_too(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(packed(ATTACKS[name], b"\0\x3c"))
    with pytest.raises(VerificationFailed):
        read_tensors(file)
    (tmp_path / "config.json").write_text("{}")
    if name in OF_BASES:
        assert scan_base(tmp_path, cache=Cache(tmp_path / "cache")).registration.tensors == OF_BASES[name]
        return
    with pytest.raises(InvalidBase, match="not a complete safetensors file"):
        scan_base(tmp_path, cache=Cache(tmp_path / "cache"))


@pytest.mark.parametrize("value", [b"\x00\x7c", b"\x00\xfc", b"\x01\x7c", b"\xff\xff"])
def test_a_value_that_is_no_number_is_refused(value: bytes) -> None:
    raw = packed(f'{{"a":{ONE}}}'.encode(), value)
    assert not accepted(raw)
    assert library_reads(raw)


@pytest.mark.parametrize(
    "dtypes", [(("F16", 2),), (("F16", 2), ("F32", 4)), (("BF16", 2), ("F16", 2))], ids=["one", "sizes", "types"]
)
def test_many_small_tensors_take_little_memory_and_time(dtypes: tuple[tuple[str, int], ...]) -> None:
    raw = entries(scale(200_000), dtypes)
    started = time.thread_time()
    with watched(2 * len(raw) + SPARE_BYTES):
        assert accepted(raw)
    assert time.thread_time() - started < 60


@pytest.mark.parametrize(
    "body",
    [
        b'"a":"' + b"\\n" * 2_000_000 + b'"',
        b",".join(b'"%x":""' % n for n in range(300_000)),
        b'"a":"' + "𐍈".encode() * 500_000 + b'"',
    ],
    ids=["escapes", "pairs", "wide"],
)
def test_metadata_without_end_take_little_memory(body: bytes) -> None:
    raw = packed(b'{"__metadata__":{' + body + b'},"a":' + ONE.encode() + b"}", b"\0\x3c")
    with watched(2 * len(raw) + SPARE_BYTES):
        assert not accepted(raw)


def test_more_tensors_or_header_than_any_adapter_has_are_refused(limits: Limits) -> None:
    limits("sdk.formats.safetensors", MAX_TENSORS=100)
    assert accepted(entries(100))
    assert not accepted(entries(101))
    limits("sdk.formats.safetensors", MAX_HEADER_BYTES=len(parted(entries(50))[0]))
    assert accepted(entries(50))
    assert not accepted(entries(51))


def test_a_large_tensor_passes_by_the_mebibyte() -> None:
    count = 4 * 1024 * 1024
    header = f'{{"a":{{"dtype":"F32","shape":[{count}],"data_offsets":[0,{4 * count}]}}}}'
    file = io.BytesIO(packed(header.encode(), b"\0\0\x80\x3f" * count))
    with watched(SPARE_BYTES):
        inspect_weights(file, size_bytes=len(file.getbuffer()), lora=LORA)
