"""Every reader of a stranger's file, and files for each that grow as wanted: wide, deep, long, repeated, or small with much
in them.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.growth.values import OBJECTS, TEXTS, dumped

from registry.jobs.kinds.evaluation_rows import RowFacts
from sdk.formats.adapter_files import WEIGHTS_FILE
from sdk.formats.base_references import BadBaseError, check_references
from sdk.formats.peft_config import examine, hazard
from sdk.formats.row_files import json_list
from sdk.formats.rows import RowsError, judge_rows
from sdk.formats.safetensors import SafetensorsError, read_header
from sdk.lora.planning.blueprint import blueprint_of
from sdk.lora.planning.config_faults import config_fault
from sdk.rows.audit import audit_rows
from sdk.rows.data_files import file_values
from sdk.rows.signature_file import make_signatures

#: Writes a file of about this many bytes.
Write = Callable[[Path, int], object]


@dataclass(frozen=True)
class Reader:
    """What reads a file; it returns a status as a request would have: 200, or 422 for a file that it refuses."""

    suffix: str
    read: Callable[[Path], int]
    files: dict[str, Write]
    #: The largest file that is written for it.
    most_bytes: int = 512 * 1024
    #: What its cost is in proportion to: the size of the file, or what that unfolds to.
    size_of: Callable[[Path], int] = lambda path: path.stat().st_size


def _refusing(read: Callable[[Path], object], *refusals: type[Exception]) -> Callable[[Path], int]:
    def status(path: Path) -> int:
        try:
            read(path)
        except refusals:
            return 422
        return 200

    return status


def _all_rows(path: Path) -> None:
    for _ in judge_rows(file_values(path, limits_unfolded=True)):
        pass


def _signed(path: Path) -> None:
    make_signatures(path, path.with_suffix(".signatures"))


def _audited(path: Path) -> None:
    audit_rows(path, label="rows")


def _scores(path: Path) -> None:
    with path.open("rb") as file:
        RowFacts.of(file, frozenset({"chrf"}), size_bytes=path.stat().st_size)


def _unfolded(path: Path) -> int:
    """How much a Parquet file unfolds to, in bytes."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return int(table.nbytes) + 64 * table.num_rows


def _header(path: Path) -> None:
    with path.open("rb") as file:
        read_header(file, path.stat().st_size, called=WEIGHTS_FILE, any_dtype=True)


def _adapter_config(path: Path) -> None:
    raw = path.read_bytes()
    if hazard(raw) is None:
        value = json.loads(raw)
        if isinstance(value, dict):
            list(examine(value))


def _base_config(path: Path) -> None:
    raw = path.read_bytes()
    with suppress(BadBaseError):
        check_references("config.json", raw)
    value = json.loads(raw)
    if isinstance(value, dict) and config_fault(value) is None:
        blueprint_of(value)


def _texts(text: Callable[[int], str]) -> Write:
    return lambda path, size_bytes: path.write_bytes(text(size_bytes).encode(errors="surrogatepass"))


def _json(value: Callable[[int], Any]) -> Write:
    return _texts(lambda size_bytes: dumped(value(size_bytes)))


def _times(line: str) -> Write:
    return _texts(lambda size_bytes: line * max(1, size_bytes // len(line)))


_ROW = '{"prompt": "a b c", "completion": "d"}\n'

_JSONL: dict[str, Write] = {
    "short rows": _times(_ROW),
    "blank lines": _texts(lambda size_bytes: "\n" * size_bytes + _ROW),
    "bad rows": _times("{}\n"),
    "no JSON": _times("{\n"),
    "long line": _texts(lambda size_bytes: json.dumps({"prompt": "a " * (size_bytes // 2), "completion": "b"})),
    "one letter": _texts(lambda size_bytes: json.dumps({"prompt": "a" * size_bytes, "completion": "b"})),
    "line of numbers": _texts(lambda size_bytes: '{"prompt": [' + "0," * (size_bytes // 2) + "0]}"),
    "line of messages": _texts(
        lambda size_bytes: json.dumps({"messages": [{"role": "user", "content": "a"}] * max(1, size_bytes // 35)})
    ),
    "many keys": _json(lambda size_bytes: {f"k{number}": 1 for number in range(max(1, size_bytes // 12))}),
    "keys and one twice": _texts(
        lambda size_bytes: "{" + ",".join(f'"k{number}":1' for number in range(max(1, size_bytes // 9))) + ',"k0":1}'
    ),
    "last key twice": _texts(
        lambda size_bytes: (
            "{"
            + ",".join(f'"k{number}":1' for number in [*range(max(1, size_bytes // 9)), max(0, size_bytes // 9 - 1)])
            + "}"
        )
    ),
    "deep line": _texts(lambda size_bytes: '{"prompt": ' + "[" * (size_bytes // 2) + "]" * (size_bytes // 2) + "}"),
    "open brackets": _texts(lambda size_bytes: '{"prompt": ' + "[" * size_bytes),
    "long number": _texts(lambda size_bytes: '{"prompt": ' + "9" * size_bytes + "}"),
    "long fraction": _texts(lambda size_bytes: '{"prompt": 0.' + "9" * size_bytes + "}"),
    "escapes": _texts(lambda size_bytes: '{"prompt": "' + "\\u00e9" * (size_bytes // 6) + '", "completion": "b"}'),
    "choices": _texts(
        lambda size_bytes: json.dumps({"prompt": "a", "choices": ["b"] * max(1, size_bytes // 5), "answer": 0})
    ),
    "equal rows": _times(_ROW),
    "rows that end alike": _texts(
        lambda size_bytes: "".join(
            json.dumps({"prompt": f"m{number} " + "a " * 40, "completion": "b"}) + "\n"
            for number in range(max(1, size_bytes // 120))
        )
    ),
}
_CSV: dict[str, Write] = {
    "columns": _texts(lambda size_bytes: ",".join(f"c{number}" for number in range(max(1, size_bytes // 7))) + "\n"),
    "columns and one twice": _texts(
        lambda size_bytes: (
            ",".join(f"c{number}" for number in [*range(max(1, size_bytes // 7)), max(0, size_bytes // 7 - 1)]) + "\n"
        )
    ),
    "columns and rows": _texts(
        lambda size_bytes: (
            (line := ",".join(f"c{number}" for number in range(max(1, int(size_bytes**0.5) // 7))))
            + "\n"
            + (line + "\n") * max(1, size_bytes // (len(line) + 1))
        )
    ),
    "empty columns": _texts(lambda size_bytes: "," * size_bytes + "\n"),
    "open quote": _texts(lambda size_bytes: 'prompt,completion\na,"' + "b\n" * (size_bytes // 2)),
    "quotes": _texts(lambda size_bytes: "prompt,completion\n" + '"a","""b"""\n' * max(1, size_bytes // 12)),
    "long cell": _texts(lambda size_bytes: "prompt,completion\n" + "a" * size_bytes + ",b\n"),
    "short rows": _texts(lambda size_bytes: "prompt,completion\n" + "a,b\n" * max(1, size_bytes // 4)),
    "uneven rows": _texts(lambda size_bytes: "prompt,completion\n" + "a\n" * max(1, size_bytes // 2)),
    "JSON in cells": _texts(
        lambda size_bytes: "messages\n" + '"[{""role"": ""user"", ""content"": ""a""}]"\n' * max(1, size_bytes // 44)
    ),
}
_LISTS: dict[str, Write] = {
    "rows": _texts(lambda size_bytes: "[" + _ROW.strip() + ("," + _ROW.strip()) * (size_bytes // len(_ROW)) + "]"),
    "deep": _texts(lambda size_bytes: "[" * (size_bytes // 2) + "]" * (size_bytes // 2)),
    "open": _texts(lambda size_bytes: "[" * size_bytes),
    "spaces": _texts(lambda size_bytes: "[" + " " * size_bytes + "]"),
    "long row": _texts(lambda size_bytes: json.dumps([{"prompt": "a" * size_bytes, "completion": "b"}])),
    "numbers": _texts(lambda size_bytes: "[" + "1," * (size_bytes // 2) + "1]"),
    "never ends": _texts(lambda size_bytes: '[{"prompt": "' + "a" * size_bytes),
}


def _parquet(columns: Callable[[int], dict[str, Any]], *, dictionary: bool = True) -> Write:
    def write(path: Path, size_bytes: int) -> None:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table(columns(size_bytes))
        pyarrow.parquet.write_table(table, path, use_dictionary=dictionary, compression="zstd")

    return write


#: Each is small, and unfolds to many times the bytes that are asked for.
_PARQUET: dict[str, Write] = {
    "equal rows": _parquet(lambda size_bytes: {"prompt": ["a"] * size_bytes, "completion": ["b"] * size_bytes}),
    "long equal rows": _parquet(
        lambda size_bytes: {"prompt": ["a" * 1000] * size_bytes, "completion": ["b"] * size_bytes}
    ),
    "columns": _parquet(lambda size_bytes: {f"c{number}": [1] for number in range(max(1, size_bytes // 60))}),
    "lists": _parquet(lambda size_bytes: {"prompt": [["a"] * 50] * size_bytes}),
}


def _lines_of_scores(scores: Callable[[int], dict[str, float]]) -> Write:
    def write(path: Path, size_bytes: int) -> None:
        with gzip.open(path, "wb") as file:
            row = 0
            while path.stat().st_size < size_bytes:
                for _ in range(50):
                    line = {"row": row, "loss_sum": 1.0, "tokens": 1, "scores": scores(row)}
                    file.write(json.dumps(line).encode() + b"\n")
                    row += 1
                file.flush()

    return write


def _weights(names: Callable[[int], list[str]]) -> Write:
    def write(path: Path, size_bytes: int) -> None:
        header = {
            name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * at, 4 * at + 4]}
            for at, name in enumerate(names(size_bytes))
        }
        raw = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"\0" * (4 * len(header)))

    return write


def _raw_header(header: Callable[[int], str]) -> Write:
    def write(path: Path, size_bytes: int) -> None:
        raw = header(size_bytes).encode()
        path.write_bytes(struct.pack("<Q", len(raw)) + raw)

    return write


_HEADERS: dict[str, Write] = {
    "tensors": _weights(lambda size_bytes: [f"a{number}.weight" for number in range(max(1, size_bytes // 70))]),
    "one long name": _weights(lambda size_bytes: ["a" * size_bytes]),
    "dotted names": _weights(
        lambda size_bytes: ["a." * number + "weight" for number in range(max(1, int(size_bytes**0.5) // 2))]
    ),
    "deep": _raw_header(lambda size_bytes: '{"a":' * (size_bytes // 5) + "1" + "}" * (size_bytes // 5)),
    "spaces": _raw_header(lambda size_bytes: "{" + " " * size_bytes + "}"),
    "metadata": _raw_header(
        lambda size_bytes: '{"__metadata__":{' + ",".join(f'"k{n}":"v"' for n in range(max(1, size_bytes // 10))) + "}}"
    ),
    "long shape": _raw_header(
        lambda size_bytes: '{"a":{"dtype":"F32","shape":[' + "1," * (size_bytes // 2) + '1],"data_offsets":[0,4]}}'
    ),
    "escapes": _raw_header(lambda size_bytes: '{"' + "\\u0061" * (size_bytes // 6) + '":{}}'),
}


def _config(key: str, values: dict[str, Callable[[int], Any]]) -> dict[str, Write]:
    def config(make: Callable[[int], Any]) -> Write:
        return _json(lambda size_bytes: {"peft_type": "LORA", "r": 8, "lora_alpha": 16, key: make(size_bytes)})

    return {f"{key}: {name}": config(make) for name, make in values.items()}


def _model_config(key: str, values: dict[str, Callable[[int], Any]]) -> dict[str, Write]:
    def config(make: Callable[[int], Any]) -> Write:
        return _json(lambda size_bytes: {"model_type": "llama", "hidden_size": 64, key: make(size_bytes)})

    return {f"{key}: {name}": config(make) for name, make in values.items()}


READERS: dict[str, Reader] = {
    "rows of JSONL": Reader(".jsonl", _refusing(_all_rows, RowsError), _JSONL),
    "rows of CSV": Reader(".csv", _refusing(_all_rows, RowsError), _CSV),
    "rows of JSON": Reader(".json", _refusing(_all_rows, RowsError), _LISTS),
    "lists of JSON": Reader(".json", _refusing(lambda path: list(json_list(path)), ValueError, RecursionError), _LISTS),
    "rows of Parquet": Reader(".parquet", _refusing(_all_rows, RowsError), _PARQUET, 64 * 1024, _unfolded),
    "signatures": Reader(".jsonl", _refusing(_signed, RowsError), _JSONL, 1024 * 1024),
    "audit": Reader(".jsonl", _refusing(_audited, RowsError), _JSONL, 256 * 1024),
    "scores by row": Reader(
        ".gz",
        _refusing(_scores),
        {
            "few names": _lines_of_scores(lambda row: {"chrf": 1.0}),
            "other names in each row": _lines_of_scores(lambda row: {f"s{row}-{number}": 1.0 for number in range(100)}),
        },
        128 * 1024,
    ),
    "safetensors": Reader(".safetensors", _refusing(_header, SafetensorsError), _HEADERS),
    "adapter config": Reader(
        ".json",
        _refusing(_adapter_config, ValueError, RecursionError),
        {
            **_config(
                "target_modules", {**TEXTS, "names": lambda size_bytes: [f"m{n}" for n in range(size_bytes // 8)]}
            ),
            **_config("rank_pattern", OBJECTS),
            **_config("exclude_modules", TEXTS),
        },
        256 * 1024,
    ),
    "base config": Reader(
        ".json",
        _refusing(_base_config, ValueError, RecursionError),
        {**_model_config("architectures", OBJECTS), **_model_config("text_config", OBJECTS)},
        512 * 1024,
    ),
}
