"""What is refused before anything is sent, and how it is said."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from support.small import TENSORS

from sdk.errors import InvalidData, InvalidInput, InvalidRef, InvalidTargets, NotFound
from sdk.names import check_number, segment
from sdk.schemas.option_types import TARGET_PRESETS
from sdk.schemas.training import TrainingSpec
from sdk.validation import build, check_data, check_targets

GPT2 = {
    "wte.weight": [100, 8],
    "wpe.weight": [100, 8],
    "h.0.ln_1.weight": [8],
    "h.0.attn.c_attn.weight": [8, 24],
    "h.0.attn.c_proj.weight": [8, 8],
    "h.0.mlp.c_fc.weight": [8, 32],
}
VISION = {f"model.{name}.q_proj.weight": [8, 8] for name in ("layers.0.self_attn", "visual.blocks.0.attn")}
EXPERTS = {"model.layers.0.block_sparse_moe.experts.0.w1.weight": [8, 8]}


@pytest.mark.parametrize(
    ("targets", "tensors"),
    [
        *((preset, TENSORS) for preset in TARGET_PRESETS),
        ("q_proj", TENSORS),
        ("q_proj,v_proj", TENSORS),
        ("self_attn.q_proj", TENSORS),
        (r".*\.(q|v)_proj", TENSORS),
        # A library may put a prefix of its own before the names of the files.
        ("model.language_model.layers.0.self_attn.q_proj", TENSORS),
        ("c_attn,attn.c_proj", GPT2),
        # What the files do not say is left to the job.
        ("gate_up_proj", EXPERTS),
        ("anything", {}),
    ],
)
def test_targets_that_a_base_has(targets: str, tensors: dict[str, list[int]]) -> None:
    check_targets(targets, tensors, base="b")


@pytest.mark.parametrize(
    ("targets", "tensors", "said"),
    [
        ("nope", TENSORS, "no linear module 'nope'; name some of these as targets: q_proj, v_proj"),
        ("q_proj,nope,nada", TENSORS, "no linear module 'nope', 'nada'; name"),
        ("input_layernorm", TENSORS, "no linear module 'input_layernorm'"),
        ("proj", TENSORS, "no linear module 'proj'"),
        # No output head and no embedding is adapted by a training.
        ("lm_head", TENSORS, "no linear module 'lm_head'"),
        ("qv", {"layers.0.mlp.up_proj.weight": [8, 8]}, "the preset 'qv' matches no linear module"),
        ("q_proj", VISION, r"q_proj too, which are not part of the text .* such as '.*visual\\..*'"),
        (r".*q_proj", VISION, "visual.blocks.0.attn.q_proj too, which are not part of the text"),
        ("q_proj", GPT2, "no linear module 'q_proj'; name some of these as targets: c_attn, c_fc, c_proj"),
    ],
)
def test_targets_that_match_nothing(targets: str, tensors: dict[str, list[int]], said: str) -> None:
    with pytest.raises(InvalidTargets) as caught:
        check_targets(targets, tensors, base="b")
    assert said in caught.value.message or re.search(said, caught.value.message)
    assert (caught.value.param, caught.value.exit_code) == ("targets", 2)


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


GOOD = {"prompt": "a", "completion": "b"}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (lines(GOOD, GOOD), ("jsonl", "prompt-completion", 2)),
        (b"\xef\xbb\xbf" + lines(GOOD), ("jsonl", "prompt-completion", 1)),
        (lines({"text": "a"}), ("jsonl", "text", 1)),
        (lines({"messages": [{"role": "user", "content": "a"}]}), ("jsonl", "messages", 1)),
        (b"prompt,completion\na,b\n", ("csv", "prompt-completion", 1)),
        (b"PAR1....PAR1", ("parquet", None, None)),
    ],
)
def test_rows_that_can_be_used(content: bytes, found: tuple[Any, ...], tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(content)
    checked = check_data(path)
    assert (checked.format, checked.shape, checked.rows) == found


def test_a_dataset_is_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, cls in ((tmp_path / "none", NotFound), (tmp_path, InvalidData), (tmp_path / "pipe", NotFound)):
        with pytest.raises(cls):
            check_data(path)
    with pytest.raises(NotFound, match="~nobody-of-that-name"):
        check_data("~nobody-of-that-name/rows.jsonl")


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"rank": 0}, "rank"),
        ({"rank": False}, "rank"),
        ({"rank": True}, "rank"),
        ({"rank": 8.0}, "rank"),
        ({"rank": "8"}, "rank"),
        ({"lr": float("nan")}, "lr"),
        ({"lr": float("inf")}, "lr"),
        ({"lr": -1.0}, "lr"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": 0.999999}, "dropout"),
        ({"targets": ""}, "targets"),
        ({"targets": "q_proj, v_proj"}, "targets"),
        ({"targets": "(.*_proj"}, "targets"),
        ({"targets": "(a+)+b"}, "targets"),
        ({"exclude": ""}, "exclude"),
        ({"exclude": "q_proj; v_proj"}, "exclude"),
        ({"ranks": 8}, "ranks"),
        ({"method": "full"}, "method"),
    ],
)
def test_a_bad_value_is_named(values: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^(?:there is no field )?{param}\b") as caught:
        build(TrainingSpec, **values)
    assert caught.value.param == param


@pytest.mark.parametrize(("given", "number"), [("v3", 3), (3, 3), ("0", 0), (0, 0)])
def test_version_numbers(given: str | int, number: int) -> None:
    assert check_number(given) == number


@pytest.mark.parametrize("given", ["3", "v0", "latest", "", -1, True, 10**9, "v03"])
def test_what_is_no_version_number(given: str | int) -> None:
    with pytest.raises(InvalidRef, match="write v1, v2"):
        check_number(given)


@pytest.mark.parametrize("text", ["..", ".", "", "a/b", "../x", "a?b", "a#b", "a%2fb", "\u00e4"])
def test_a_segment_can_not_climb(text: str) -> None:
    made = segment(text)
    assert made not in ("", ".", "..")
    assert not set("/?#") & set(made)
