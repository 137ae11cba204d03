"""A real sweep of three ranks at the command line, in a folder: what is shown, what scripts read, and what becomes of its members."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import tiny
from support.command_line import CommandLine

from sdk.client import Client

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

OPTIONS = ["--method", "lora", "--max-steps", "4", "--batch-size", "2", "--grad-accum", "1", "--max-length", "64"]


class Home(CommandLine):
    """An embedded registry in which somebody has waited for a sweep."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, cwd=folder)
        base, rows = tiny.save_llama(folder / "tiny-llama"), tiny.write_rows(folder / "rows.jsonl", 16)
        given = ["--base", str(base), "--data", str(rows), "--holdout", "0.25", "--lr", "1e-2", *OPTIONS]
        done = self.run("sweep", "sql", *given, "--rank", "1,2,4", "--format", "json", within_s=380)
        assert done.returncode == 0, done.stderr
        self.said, self.document = done.stderr, json.loads(done.stdout)
        self.id = self.document["id"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("sweep"))


def test_each_rank_is_trained_once_and_the_winner_becomes_a_version(home: Home) -> None:
    document = home.document
    assert [member["rank"] for member in document["members"]] == [1, 2, 4]
    assert [(member["state"], member["outcome"]) for member in document["members"]] == [("succeeded", "finished")] * 3
    losses = [member["metrics"]["eval_loss"] for member in document["members"]]
    best = document["members"][losses.index(min(losses))]
    assert (document["winner"], best["ref"]) == ("sql@v1", "sql@v1")
    assert [member["ref"] for member in document["members"] if member is not best] == [None, None]
    assert document["verdict"]["settings"][0]["setting"] == {"rank": best["rank"]}
    assert home.json("show", "sql@v1")["lora"]["rank"] == best["rank"]


def test_what_happens_is_told_in_lines(home: Home) -> None:
    assert f"sweep {home.id} trains sql" in home.said
    assert all(
        f"member {number} (rank {rank}) finished, loss " in home.said for number, rank in ((1, 1), (2, 2), (3, 4))
    )


def test_it_is_shown_and_listed(home: Home) -> None:
    shown = home.ok("sweep", "show", home.id, "--members", "--format", "table")
    assert "VERDICT" in shown
    assert all(f"sweep:{home.id}/{number}" in shown for number in (1, 2, 3))
    assert max(map(len, shown.splitlines())) <= 80
    piped = dict(line.split("\t") for line in home.ok("sweep", "show", home.id).splitlines())
    assert [piped[f"members.{number}.id"] for number in (1, 2, 3)] == [
        f"sweep:{home.id}/{number}" for number in (1, 2, 3)
    ]
    assert [piped[f"settings.{number}.rank"] for number in (1, 2, 3)] == ["1", "2", "4"]
    assert float(piped["settings.1.size_bytes"]) > 0
    assert home.ok("sweep", "show", home.id, "--format", "quiet") == "sql@v1"
    (listed,) = home.json("sweep", "list")
    assert (listed["id"], listed["state"], listed["counts"]) == (home.id, "ended", {"succeeded": 3})
    assert "rank 1,2,4" in home.ok("sweep", "list")


def test_a_terminal_has_table_words_and_picture(home: Home) -> None:
    status, data, shown = home.at_a_terminal("sweep", "show", home.id, "--watch", piped=True, TERM="xterm-256color")
    assert (status, data) == (0, "sql@v1\n")
    assert "VERDICT" in shown
    assert shown.count("◆") == 2
    status, _, shown = home.at_a_terminal("sweep", "show", home.id, TERM="dumb")
    assert (status, shown.count("@ best")) == (0, 1)
    assert "◆" not in shown


def test_jobs_name_the_sweep_that_they_are_of(home: Home) -> None:
    job = home.document["members"][1]["job"]
    assert f"sweep:{home.id}/2" in home.ok("jobs", "show", job)
    assert {row["sweep"] for row in home.json("jobs", "list")} == {f"sweep:{home.id}/{number}" for number in (1, 2, 3)}
    assert f"sweep:{home.id}/2" in home.ok("jobs", "list")


def test_its_picture_is_written(home: Home) -> None:
    target = home.folder / "ranks.svg"
    assert home.ok("plot", f"sweep:{home.id}", "-o", str(target)) == str(target)
    text = target.read_text()
    assert "sql: held-out loss by rank" in text
    assert text.count('class="best"') >= 1
    assert "has a picture of its own" in home.refused(2, "plot", f"sweep:{home.id}", "sql@v1", "-o", str(target))


def test_python_reads_the_same(home: Home) -> None:
    with closing(Client(home.url)) as client:
        sweep = client.sweeps.get(f"sweep:{home.id}")
        assert sweep.wait().winner == "sql@v1"
        assert sweep.result().ref == "sql@v1"
        assert [member.number for member in sweep.members] == [1, 2, 3]
        assert sweep.verdict is not None
        assert sweep.verdict.metric == "eval_loss"
        assert "held-out loss" in sweep.plot().svg


def test_a_sweep_that_has_ended_neither_pauses_nor_goes_on(home: Home) -> None:
    for act in ("pause", "go", "cancel"):
        said: Any = home.refused(4, "sweep", act, home.id)
        assert home.id in said
