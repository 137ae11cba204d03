"""The record of a training: typed for our code, flat where it is stored and sent."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import sdk
from sdk.schemas.training import TrainingSpec
from sdk.schemas.version_records import TrainingRecord

ROOT = Path(sdk.__file__).parent.parent
#: What a worker of another release may send: keys that are unknown here, and values of another type.
FOREIGN: dict[str, Any] = {"rank": "eight", "lr_of_tomorrow": 0.1, "seed": 7, "threads": None, "audit_labels": 2}


def test_fields_of_another_release_are_kept_and_those_of_another_type_are_not_recorded() -> None:
    record = TrainingRecord.read(FOREIGN)
    assert record.flat() == {name: value for name, value in FOREIGN.items() if name != "rank"}
    assert (record.seed, record.rank, record.max_length) == (7, TrainingSpec().rank, None)
    assert TrainingRecord.read(record.flat()) == record
    assert TrainingRecord.read(None).flat() == {}
    assert TrainingRecord.read({"python": "3" * 101, "driver": "5" * 100}).flat() == {"driver": "5" * 100}


def test_what_is_no_scalar_is_not_recorded() -> None:
    assert TrainingRecord.read({"rank": 4, "unknown": [1], "device": {"kind": "cpu"}}).flat() == {"rank": 4}
    with pytest.raises(ValidationError, match="unknown"):
        TrainingRecord.model_validate({"unknown": [1]})


def test_what_did_not_happen_is_left_out_and_what_a_spec_says_is_not() -> None:
    record = TrainingRecord(rows_split=0, reference=None, adam_beta1=0.9, max_steps=None)
    assert record.flat() == {"adam_beta1": 0.9, "max_steps": None}


def test_spec_says_what_its_training_records() -> None:
    spec = TrainingSpec(max_steps=3, rank=4, holdout=0.1)
    record = TrainingRecord.model_validate(spec.recorded())
    assert record.flat() == spec.recorded()
    assert (record.alpha, record.effective_batch, record.epochs, record.total_steps) == (8.0, 16, None, 3)
    assert record.holdout == 0.1
    # The job says what these are.
    assert record.model_fields_set.isdisjoint({"objective", "loss_on", "packing", "max_length"})


def _looked_up(node: ast.AST) -> ast.expr | None:
    """What is asked for a key that is written out: `x` in `x["key"]` and in `x.get("key")`."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
        return node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
        return node.func.value if isinstance(node.args[0], ast.Constant) else None
    return None


def _is_training(node: ast.expr) -> bool:
    """Whether an expression is the flat record: `version.training`, `view["training"] or {}`, `table(origin.training)`."""
    if isinstance(node, ast.BoolOp):
        return any(_is_training(one) for one in node.values)
    if isinstance(node, ast.Call):
        return any(_is_training(one) for one in node.args)
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value == "training"
    return (node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)) == "training"


def test_no_code_reads_a_record_by_a_key() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{asked.lineno}"
        for folder in ("sdk", "registry", "workers")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if (asked := _looked_up(node)) is not None and _is_training(asked)
    ]
    assert not found, "a misspelt key is silence; take TrainingRecord"
