"""Files and options that no training can be made of: each is refused at submit, in one sentence that names what is wrong and where, and
says what to write instead. Rows alone are in `tests/unit/sdk/test_bad_rows.py`.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from click.testing import CliRunner
from support.adapters import base_registration

from sdk.cli import cli
from sdk.client import Client
from sdk.errors import AdapterctlError

GOOD = b'{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n'


class Case(NamedTuple):
    """What is given to `train NAME --base tiny`, and what is said of it."""

    name: str
    files: dict[str, bytes]
    given: list[str]
    exit_code: int
    code: str
    says: str


def file(
    name: str, content: bytes | str, says: str, *options: str, exit_code: int = 2, code: str = "invalid_data"
) -> Case:
    """A file that is given as the data."""
    data = content.encode() if isinstance(content, str) else content
    return Case(
        f"{name}: {data[:24]!r} {' '.join(options)}", {name: data}, ["--data", name, *options], exit_code, code, says
    )


def options(given: str, says: str, *, exit_code: int = 2, code: str = "invalid") -> Case:
    """Options beside good rows."""
    return Case(
        given or "nothing", {"good.jsonl": GOOD}, ["--data", "good.jsonl", *given.split()], exit_code, code, says
    )


def config(text: str, says: str, *, exit_code: int = 2, code: str = "invalid") -> Case:
    """A file of options, beside good rows."""
    files = {"good.jsonl": GOOD, "a.yaml": text.encode()}
    return Case(f"yaml: {text[:30]!r}", files, ["--config", "a.yaml"], exit_code, code, says)


FILES = [
    file("a.jsonl", b"", "a.jsonl is empty; give rows of {prompt, completion}"),
    file("a.jsonl", b"\n \n", "the dataset has no rows; give rows of"),
    file("a.jsonl", '{"prompt": "a"}\n', "line 1 has no `completion`"),
    file("a.jsonl", '{"prompt": "a", "completion": "b"}\n{"text": "c"}\n', "line 2 is a text row among prompt rows"),
    file("a.jsonl", b'{"text": "\xff"}\n', "line 1 is not a JSON object (byte 11 is not UTF-8)"),
    file("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "is in UTF-16; write it in UTF-8"),
    file("a.jsonl", gzip.compress(GOOD, mtime=0), "is compressed"),
    file("a.jsonl.gz", gzip.compress(GOOD, mtime=0), "is compressed"),
    file("a.zip", b"PK\x03\x04" + bytes(60), "is compressed"),
    file("a.jsonl.zst", b"\x28\xb5\x2f\xfd" + bytes(60), "is compressed"),
    file("a.arrow", b"ARROW1\x00\x00" + bytes(60), "neither JSONL, CSV in UTF-8 nor Parquet"),
    file("a.sqlite", b"SQLite format 3\x00" + bytes(60), "neither JSONL, CSV in UTF-8 nor Parquet"),
    file("a.xlsx", b"PK\x03\x04\x14\x00\x06\x00" + bytes(60), "is compressed"),
    file("a.json", '{"data": [{"text": "a"}]}', "line 1 has none of the shapes"),
    file("a.csv", "prompt,completion\n", "the dataset has no rows"),
    file("a.csv", "prompt,completion\na\n", "line 2 has another number of fields than the header"),
    file("a.csv", "prompt;completion\na;b\n", "separated by ';'; separate them by commas"),
    file("a.tsv", "prompt\tcompletion\na\tb\n", "separated by '\\t'; separate them by commas"),
    file("a.csv", "prompt,prompt\na,b\n", "has the column 'prompt' twice"),
    file("a.csv", b"prompt,completion\n\xe9,b\n", "neither JSONL, CSV in UTF-8 nor Parquet"),
    file("a.txt", "just some words\n", "the dataset has no rows"),
    file("a.jsonl", GOOD, "line 1 has nothing in the column `repo`", "--holdout", "0.5", "--holdout-by", "repo"),
    file("a.jsonl", '{"text": "a"}\n{"text": "A"}\n', "all rows are the same text", "--holdout", "0.5"),
]

GIVEN = [
    Case("no data", {}, [], 2, "invalid", "a training needs --data"),
    Case("no file", {}, ["--data", "none.jsonl"], 3, "not_found", "there is no file and no dataset 'none.jsonl'"),
    Case("a path", {}, ["--data", "./none.jsonl"], 3, "not_found", "there is no file none.jsonl"),
    Case(
        "a folder",
        {"d/a": b""},
        ["--data", "d"],
        2,
        "invalid_data",
        "d is a folder; give a JSONL, JSON, CSV or Parquet file",
    ),
    *(
        Case(
            url,
            {},
            ["--data", url],
            2,
            "invalid_data",
            "is a URL, and only files are read; fetch it first, as with: curl -L",
        )
        for url in ("https://example.org/a.jsonl", "s3://bucket/a.jsonl", "hf://datasets/org/a")
    ),
    Case("a digest", {}, ["--data", "3f1c2a9b7d20"], 3, "not_found", "there is no dataset '3f1c2a9b7d20'"),
    Case(
        "half a digest",
        {},
        ["--data", "3F1C2A9B7D20"],
        2,
        "invalid",
        "give 12 to 64 lower-case hexadecimal digits",
    ),
    options("--data good.jsonl", "--data good.jsonl is given twice; give it once, with a weight"),
    options(
        "--weight 1", "a weight is relative to those of other datasets, and there is only one dataset; leave it out"
    ),
    options(
        "--data b.jsonl --weight 1", "there are 1 weights for 2 datasets; give one --weight for each --data, or none"
    ),
    options("--data b.jsonl --weight 1 --weight 0", "the weight of b.jsonl is '0.0'; give a number above 0"),
    options("--holdout 1.5", "holdout can't be 1.5; use a number above 0 and below 1"),
    options("--holdout 0.5 --eval-data good.jsonl", "leave out holdout, or eval_data"),
    options("--holdout-by repo", "no share is; give holdout, such as 0.1"),
    options("--eval-data none.jsonl", "no file and no dataset 'none.jsonl'", exit_code=3, code="not_found"),
    options(
        "--objective dpo",
        "needs rows of {prompt, chosen, rejected}, and these are prompt-completion rows; leave objective out",
    ),
    options(
        "--objective classify", "needs rows of {text, label}, and these are prompt-completion rows; leave objective out"
    ),
    options("--loss-on assistant", "nothing for a loss on 'assistant'; set loss_on to completion or all"),
    options(
        "--loss-on reasoning", "a loss on 'reasoning' needs {messages} rows, which keep an answer's reasoning apart"
    ),
    options("--rank 0", "rank can't be 0; use a whole number from 1 to 1024"),
    options("--rank many", "'many' is not a valid integer", code=""),
    options("--alpha 0", "alpha can't be 0; use a number above 0 and at most 65536"),
    options("--dropout 1", "dropout can't be 1; use a number of at least 0 and at most 0.9"),
    options("--lr 2", "lr can't be 2; use a number above 0 and at most 1"),
    options("--lr nan", "lr can't be nan; use a number above 0 and at most 1"),
    options("--epochs 0", "epochs can't be 0; use a number above 0 and at most 1000"),
    options("--max-steps 0", "max_steps can't be 0; use a whole number from 1 to 10000000"),
    options("--batch-size 0", "batch_size can't be 0; use a whole number from 1 to 4096"),
    options("--max-length 4", "max_length can't be 4; use a whole number from 8 to 1048576"),
    options("--seed -1", "seed can't be -1; use a whole number from 0 to 4294967295"),
    options("--schedule step", "'step' is not one of 'cosine', 'linear', 'constant'", code=""),
    options("--targets nope", "has no linear module 'nope'; name some of these as targets: ", code="invalid_targets"),
    options("--targets q_proj,", "'' is not a module name; give one of qv, attention, all-linear"),
    options(
        "--rank-pattern q_proj",
        "rank_pattern: 'q_proj' is not a module and its value; write them as 'q_proj=16,v_proj=4'",
    ),
    options("--rank-pattern q_proj=0", "q_proj can't be 0; use a whole number from 1 to"),
    options("--layers-to-transform 3-1", "write them as '0-3,8'"),
    options("--use-rslora", "give alpha, such as 6 for the scale 2"),
    options("--memory 0", "a memory of 0 bytes is less than any job takes"),
    options("--memory much", "'much' is not a size; write 16GB, 24GiB or plain bytes"),
    options("--timeout soon", "'soon' is not a duration"),
    options("--priority 101", "priority can't be 101; use a whole number from -100 to 100"),
    options("--checkpoint-every 10", "'10' is not an interval"),
    options("--from-checkpoint a@last", "is not a checkpoint"),
    options("--base ./none", "there is no folder none", exit_code=3, code="not_found"),
]

YAML = [
    config("", "a.yaml holds no options; write lines such as 'rank: 16'"),
    config("- rank", "a.yaml holds no options"),
    config("rank: [", "a.yaml can't be read as YAML in line"),
    config("rnak: 8", "there is no option 'rnak'; did you mean rank?"),
    config("data: good.jsonl\nrank: '8'", "rank can't be '8'; use a whole number from 1 to 1024"),
    config("data: good.jsonl\nrank: 8.5", "rank can't be 8.5; use a whole number from 1 to 1024"),
    config("data: good.jsonl\nlr: fast", "lr can't be 'fast'; use a number above 0 and at most 1"),
    config(
        "data: good.jsonl\nschedule: step",
        "schedule can't be 'step'; use cosine, linear, constant, cosine_restarts, wsd or inverse_sqrt",
    ),
    config("data: good.jsonl\nuse_dora: maybe", "use_dora can't be 'maybe'; use true or false"),
    config("data: good.jsonl\nmethod: full", "method can't be 'full'; use qlora or lora"),
    config("data: 7", "'7' is not a dataset; give a file, a name or a digest (in YAML, put a digest in quotes)"),
    config("data: [good.jsonl, 7]", "'7' is not a dataset"),
    config("data: {good.jsonl: much, b.jsonl: 1}", "the weight of good.jsonl is 'much'; give a number above 0"),
    config("data: {good.jsonl: -1, b.jsonl: 1}", "the weight of good.jsonl is '-1'; give a number above 0"),
    config("data: []", "a training needs --data"),
    config("data: good.jsonl\neval_data: 7", "'7' is not a dataset"),
    config("data: good.jsonl\nmemory: [1]", "is not a size"),
    config(
        "data: good.jsonl\nmemory: 16",
        "a memory of 16 bytes is less than any job takes; give it with its unit, such as 16GB",
    ),
    config("data: good.jsonl\nrank: 4\nrank: 8", "a.yaml: 'rank' is given twice, again in line 3; leave one"),
    config("data: good.jsonl\nbatch_size: 4\nbatch-size: 8", "'batch-size' is given twice, again in line 3"),
    config("data: {good.jsonl: 1, good.jsonl: 2}", "'good.jsonl' is given twice, again in line 1"),
    config("data: good.jsonl\ntimeout: [1]", "is not a duration"),
    config("data: good.jsonl\npriority: high", "priority can't be 'high'; use a whole number from -100 to 100"),
    config("base: 7", "a.yaml: base is '7', which is not text; put it in quotes"),
    config("like: true", "a.yaml: like is 'True', which is not text; put it in quotes"),
    config("data: good.jsonl\ncheckpoint_every: 7", "is not an interval"),
]

CASES = [*FILES, *GIVEN, *YAML]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry in a folder, with a base."""
    url = f"local:{tmp_path_factory.mktemp('bad') / 'home'}"
    client = Client(url)
    client.bases.register(base_registration())
    yield url
    client.close()


def refusal(args: list[str], url: str) -> tuple[int, str, str]:
    """Exit code, code and sentence of a command that is refused."""
    done = CliRunner().invoke(cli, args, env={"ADAPTERCTL_URL": url}, standalone_mode=False)
    error: Any = done.exception
    if isinstance(error, AdapterctlError):
        return error.exit_code, error.code, error.message
    assert isinstance(error, click.UsageError), (done.output, error)
    return error.exit_code, "", error.format_message()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused_in_one_sentence(case: Case, home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in case.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    args = ["train", "a", *([] if "--base" in case.given else ["--base", "tiny"]), *case.given, "--detach"]
    exit_code, code, message = refusal(args, home)
    assert case.says in message
    assert (exit_code, code) == (case.exit_code, case.code)
    # No library speaks for us.
    assert not re.search(r"Input should|Value error|Traceback|NoneType|<class|\bpydantic\b", message)
    assert "\n" not in message
    assert json.loads(json.dumps(message)) == message
