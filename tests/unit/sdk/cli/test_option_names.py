"""An option is called in errors as somebody typed it: `--max-length` on a terminal, `max_length` in the SDK, in files and over HTTP."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sdk.cli import main
from sdk.errors import InvalidInput
from sdk.schemas.codes import explain_validation
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.jobs import Needs
from sdk.schemas.training import TrainingSpec
from sdk.submitting.job_options import checkpoint_policy, needs_of
from sdk.validation import build

TRAIN = "train sql --base tiny --data rows.jsonl"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "options.yaml").write_text("data: rows.jsonl\nbase: tiny\nrank: 0\n")
    monkeypatch.setenv("ADAPTERCTL_URL", f"local:{tmp_path / 'home'}")
    monkeypatch.setenv("ADAPTERCTL_HELPER", "0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{TRAIN} --rank 0", "--rank can't be 0; use a whole number from 1 to 1024"),
        (f"{TRAIN} --rank many", "--rank can't be 'many'; use a whole number"),
        (f"{TRAIN} --max-length 4", "--max-length can't be 4; use a whole number from 8 to 1048576"),
        (f"{TRAIN} --alpha 0", "--alpha can't be 0; use a number above 0 and at most 65536"),
        (f"{TRAIN} --method full", "--method can't be 'full'; use qlora or lora"),
        (f"{TRAIN} --rank-pattern q_proj=0", "--rank-pattern: q_proj can't be 0; use a whole number from 1 to 1024"),
        (f"{TRAIN} --memory 99999999999GB", "--memory is too large; give what a worker must have, such as 80GB"),
        (f"{TRAIN} --checkpoint-every 0steps", "--checkpoint-every: '0steps' is not an interval between checkpoints"),
        (f"{TRAIN} --eval-every 5 --samples 3", "--eval-every and --samples look at held-out rows, and there are none"),
        (f"{TRAIN} --nosuch 1", "there is no option '--nosuch'; "),
        (f"{TRAIN} --rank", "--rank needs a value; see: adapterctl"),
        ("train sql --config options.yaml", "options.yaml: rank can't be 0; use a whole number from 1 to 1024"),
        ("sweep sql --base tiny --data rows.jsonl --holdout 0.5 --rank 0,1", "--rank can't be 0; use a whole number"),
        ("eval a@v1 --data rows.jsonl --metrics bleurt", "--metrics can't contain 'bleurt'; use rouge_l, rouge_1, "),
        ("compat a@v1", "--engine is missing; use vllm, sglang, llama.cpp, ollama or peft"),
        ("compat a@v1 --engine tgi", "--engine can't be 'tgi'; use vllm, sglang, llama.cpp, ollama or peft"),
        ("completion tcsh", "SHELL can't be 'tcsh'; use bash, zsh or fish"),
        ("jobs list --limit 0", "--limit can't be 0; use a whole number from 1 to 1000"),
        ("show", "REF is missing; see: adapterctl show --help"),
    ],
)
def test_a_terminal_names_the_option(
    line: str, message: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["adapterctl", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}"), said
    assert ended.value.code == 2


def test_json_has_the_option_in_the_message_and_the_field_as_param(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["adapterctl", *f"{TRAIN} --max-length 4 --format json".split()])
    with pytest.raises(SystemExit):
        main()
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["param"] == "max_length"
    assert error["message"].startswith("--max-length can't be 4")


def test_the_sdk_names_the_keyword() -> None:
    with pytest.raises(InvalidInput, match=r"^max_length can't be 4; use a whole number from 8 to 1048576$") as caught:
        build(TrainingSpec, max_length=4)
    assert caught.value.param == "max_length"
    with pytest.raises(InvalidInput, match=r"^there is no field rnak; did you mean rank\?$"):
        build(TrainingSpec, rnak=4)
    with pytest.raises(InvalidInput, match=r"^metrics can't contain 'bleurt'; use rouge_l, "):
        build(EvaluationSpec, metrics=["bleurt"])


def test_a_bound_that_only_storage_has_is_not_named() -> None:
    with pytest.raises(InvalidInput, match=r"^memory_bytes is too large; use a smaller number$"):
        build(Needs, device="any", memory_bytes=2**70)
    with pytest.raises(InvalidInput, match=r"^memory is too large; give what a worker must have, such as 80GB$"):
        needs_of(None, 2**70)
    with pytest.raises(InvalidInput, match="is not an interval between checkpoints"):
        checkpoint_policy("0steps")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            {"type": "missing", "loc": ("body", "spec", "data"), "msg": "Field required", "input": {}},
            "spec.data is missing; add it",
        ),
        (
            {"type": "list_type", "loc": ("body", "parents"), "msg": "Input should be a valid list", "input": "x"},
            "parents can't be 'x'; use a list",
        ),
        (
            {
                "type": "less_than_equal",
                "loc": ("body", "parents", 1, "weight"),
                "msg": "Input should be less than or equal to 1000",
                "input": 1001.0,
                "ctx": {"le": 1000.0},
            },
            "parents[1].weight can't be 1001; use a number at most 1000",
        ),
        (
            {
                "type": "greater_than_equal",
                "loc": ("body", "days"),
                "msg": "Input should be greater than or equal to 1",
                "ctx": {"ge": 1},
            },
            "days must be a number of at least 1",
        ),
        (
            {"type": "too_short", "loc": ("body", "grants"), "msg": "List should have …", "ctx": {"min_length": 1}},
            "grants has too few items; give at least 1",
        ),
        (
            {
                "type": "json_invalid",
                "loc": ("body", 3),
                "msg": "JSON decode error",
                "input": {},
                "ctx": {"error": "Expecting value"},
            },
            "the body is not JSON (Expecting value); correct it, then send it again",
        ),
    ],
)
def test_the_registry_names_the_field(error: dict[str, object], message: str) -> None:
    assert explain_validation([error])[0] == message


def test_what_a_registry_was_sent_is_refused_by_the_range_of_its_field() -> None:
    error = {"type": "greater_than_equal", "loc": ("body", "rank"), "msg": "Input should …", "ctx": {"ge": 1}}
    assert explain_validation([error], TrainingSpec)[0] == "rank must be a whole number from 1 to 1024"
    unknown = {"type": "extra_forbidden", "loc": ("body", "rnak"), "msg": "Extra inputs are not permitted"}
    assert explain_validation([unknown], TrainingSpec)[0] == "there is no field rnak; did you mean rank?"
