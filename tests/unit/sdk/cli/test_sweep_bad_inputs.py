"""Sweeps that can't be: each is refused before rows are sent, in one sentence that says what is wrong, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from support.adapters import base_registration

from sdk.cli import cli
from sdk.client import Client
from sdk.errors import AdapterctlError
from sdk.examining.sweep_cost import cost_of
from sdk.lora.planning.tables import LLAMA_2_7B
from sdk.submitting.sweep_options import divided

ROWS = "".join(f'{{"prompt": "a{at}", "completion": "b{at}"}}\n' for at in range(20))
HELD = "--holdout 0.2 "

CASES: list[tuple[str, str]] = [
    (HELD, "nothing varies, so there is nothing to compare; give an option several values, such as --rank 1,2,4"),
    (HELD + "--rank 4", "nothing varies"),
    (HELD + "--rank 16..1", "rank: the range 16..1 does not go up; write the smaller number first"),
    (HELD + "--lr 0..1e-3:log[3]", "lr can't be 0; use a number above 0"),
    (HELD + "--lr 1e-4..1e-3:log", "lr: a grid needs to know how many values 0.0001..0.001:log has"),
    (HELD + "--lr 1e-4..", "lr: '1e-4..' is not a whole range; write it as 1..64"),
    (HELD + "--rank 1,2,1", "rank: 1 is given twice; leave one"),
    (HELD + "--rank 1,,2", "rank: value 2 of 3 is empty; give it"),
    (HELD + "--rank 1,two", "rank: 'two' is not a number; give a whole number from 1 to 1024"),
    (HELD + "--rank 0,1", "rank can't be 0; use a whole number from 1 to 1024"),
    (HELD + "--lr nan,1e-4", "lr: 'nan' is not a number; give a number above 0"),
    (HELD + "--rank 1..1000[1000] --lr 1e-4..1e-3[100]", "the grid has 100,000 settings (1000 of rank · 100 of lr)"),
    (HELD + "--rank 1..400[400] --seeds 3", "there are 1,200 members with 3 seeds, and a sweep has at most 1,000"),
    (HELD + "--rank 1,2 --trials 3", "a grid tries all of its settings; leave trials out"),
    (HELD + "--rank 1,2 --sample random", "random goes on as long as it is asked; give trials"),
    (HELD + "--rank 1,2 --seeds 0", "seeds can't be 0; use a whole number from 1 to 16"),
    (HELD + "--rank 1,2 --margin 0", "margin can't be 0; use a number above 0 and at most 1"),
    (HELD + "--rank 1,2 --max-gpu-hours 0", "max_gpu_hours can't be 0; use a number above 0"),
    (HELD + "--rank 1,2 --max-time soon", "'soon' is not a duration; write it as 90s"),
    (HELD + "--rank 1,2 --epochs 0", "epochs can't be 0; use a number above 0"),
    (HELD + "--seed 1,2", "seeds are not a setting, but trainings of the same one; say how many with seeds"),
    (HELD + "--max-length 8,16", "max_length changes what the held-out loss measures"),
    ("--holdout 0.1,0.2", "holdout says what the rows are"),
    (HELD + "--schedule cosine,step", "schedule can't be 'step'; use cosine, linear"),
    (HELD + "--use-rslora --rank 1,2", "give alpha, such as"),
    ("--rank 1,2", "a sweep looks at held-out rows, and there are none; give eval_data, or a share"),
    (HELD + "--rank 1,2 --config none.yaml", "there is no file"),
    (HELD + "--rank 1,2 --choose nosuch", "'nosuch' is not a score by which members can be chosen"),
    (
        HELD + "--rank 1,2 --choose rouge_l",
        "rouge_l is scored by an evaluation, which needs held-out rows of their own",
    ),
]
YAML = [
    ("rank: [1, 2, 1]", "rank: 1 is given twice; leave one"),
    ("rank: []", "rank: there is no value; give one, or several"),
    ("rnak: [1, 2]", "there is no option 'rnak'; did you mean rank?"),
    ("like: sql@v1", "there is no option 'like'"),
    ("rank: [1, 2]\nsample: all", "sample can't be 'all'; use grid, random or tpe"),
    ("lr: {low: 1e-3, high: 1e-4}", "lr: the range 0.001..0.0001 does not go up"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(f"local:{tmp_path_factory.mktemp('swept') / 'home'}")
    client.bases.register(base_registration())
    yield client
    client.close()


def refusal(url: str, *args: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["sweep", *args], env={"ADAPTERCTL_URL": url}, standalone_mode=False)
    error: Any = done.exception
    if isinstance(error, click.UsageError):
        return error.exit_code, error.format_message()
    assert isinstance(error, AdapterctlError), (done.output, error)
    return error.exit_code, error.message


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(ROWS)
    return tmp_path


def require_refused(client: Client, says: str, *args: str) -> None:
    exit_code, message = refusal(client.config.url, "a", "--base", "tiny", "--data", "rows.jsonl", *args)
    assert says in message
    assert exit_code == (3 if says.startswith("there is no file") else 2)
    assert not re.search(r"Input should|Value error|Traceback|NoneType|<class|\n", message)
    assert client.sweeps() == []


@pytest.mark.parametrize(("given", "says"), CASES, ids=lambda one: one[:60])
def test_a_sweep_that_can_t_be_is_refused_in_one_sentence(given: str, says: str, home: Client, here: Path) -> None:
    require_refused(home, says, *given.split())


@pytest.mark.parametrize(("text", "says"), YAML, ids=lambda one: one[:40])
def test_a_file_of_options_is_refused_in_one_sentence(text: str, says: str, home: Client, here: Path) -> None:
    (here / "a.yaml").write_text(text)
    require_refused(home, says, "--config", "a.yaml", "--holdout", "0.2")


def test_nothing_is_sent_of_a_sweep_that_can_t_be(home: Client, here: Path) -> None:
    require_refused(home, "nothing varies", "--rank", "4", "--holdout", "0.2")
    (here / "rows.jsonl").write_text(ROWS + '{"prompt": "only here", "completion": "c"}\n')
    before = len(home.datasets())
    require_refused(home, "leave trials out", "--rank", "1,2", "--trials", "3", "--holdout", "0.2")
    assert len(home.datasets()) == before


def test_what_a_sweep_costs_counts_the_rows_that_choose(home: Client, here: Path) -> None:
    asked = divided(
        {"rank": "1,2", "holdout": 0.5, "batch_size": 2, "grad_accum": 1, "epochs": 1, "stop_early": "halving"}
    )
    home.bases.register(base_registration("llama", config=LLAMA_2_7B, size_bytes=13_476_831_232))
    given = {"base": "llama", "data": "rows.jsonl"}
    cost = cost_of(home, "a", asked, **given)
    # Half of the held-out rows tell how good the winner is.
    assert (cost.rows, cost.held_out_rows, cost.choosing_rows) == (10, 10, 5)
    # Each looks before, at the rungs of steps 1 and 2, in the middle, which is step 3, and at the end.
    assert (cost.smallest.steps, cost.looks) == (5, 2 * 5)
    whole = cost_of(home, "a", asked, **given, test_data="test.jsonl")
    assert (whole.held_out_rows, whole.choosing_rows) == (10, 10)
    args = ["sweep", "a", "--base", "llama", "--data", "rows.jsonl", "--holdout", "0.5", "--rank", "1,2", "--explain"]
    said = CliRunner().invoke(cli, args, env={"ADAPTERCTL_URL": home.config.url})
    assert "10 rows: 5 to choose by, 5 that tell how good the winner is" in said.stdout
    assert "5 rows choose, and with fewer than 20 there is no verdict" in said.stderr


@pytest.mark.parametrize("name", ["list", "Upper", "a@v1"])
def test_a_name_that_no_sweep_can_have_is_refused(name: str, home: Client, here: Path) -> None:
    args = ("--base", "tiny", "--data", "rows.jsonl", "--holdout", "0.2", "--rank", "1,2")
    exit_code, message = refusal(home.config.url, name, *args)
    assert exit_code == 2
    assert name in message
