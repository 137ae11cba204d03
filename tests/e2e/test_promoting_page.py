"""What docs/promoting.md shows is what happens: its commands, by the people it names, before a registry with tokens and a worker."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import pages, processes, workplace
from support.command_line import CommandLine
from support.workplace import Workplace

from registry.principal import SYSTEM, Role
from sdk.client import Client

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "promoting.md").read_text()
PEOPLE = {
    "boss": Role.ADMIN,
    "will": Role.WRITER,
    "ann": Role.PROMOTER,
    "ben": Role.PROMOTER,
    "cat": Role.PROMOTER,
    "rita": Role.READER,
}
NAME = "team/code-review"
WIDTH = 80


def commands(block: str) -> list[tuple[list[str], str, int]]:
    """The commands of a block of the page: words, who runs them, and with which code they exit."""
    found = []
    for line in pages.block("promoting.md", block).splitlines():
        command, _, comment = line.rpartition("#")
        person = re.match(r"\w+", comment.strip())
        assert person is not None, line
        status = re.search(r"exit (\d)", comment)
        found.append((shlex.split(command)[1:], person[0], int(status[1]) if status else 0))
    return found


@dataclass
class Team:
    """The namespace of the page, its people, and what each of their commands said."""

    url: str
    folder: Path
    secrets: dict[str, str] = field(default_factory=dict)
    said: list[subprocess.CompletedProcess[str]] = field(default_factory=list)

    def run(self, person: str, *args: str, status: int = 0) -> str:
        """Run a command as somebody; return its data. What it says fits 80 columns, but for errors, JSON and lists in a pipe."""
        line = CommandLine(self.folder, url=self.url, token=self.secrets[person], cwd=self.folder)
        done = line.run(*args, within_s=300)
        assert done.returncode == status, (args, done.stdout, done.stderr)
        shown = [
            each
            for each in (done.stdout + done.stderr).splitlines()
            if not each.startswith(("error: ", "| ", "[", "{")) and "\t" not in each
        ]
        assert [each for each in shown if len(each) > WIDTH] == []
        self.said.append(done)
        return done.stdout

    def follow(self, block: str) -> list[subprocess.CompletedProcess[str]]:
        """Run the commands of a block of the page."""
        before = len(self.said)
        for words, person, status in commands(block):
            self.run(person, *words, status=status)
        return self.said[before:]

    def named(self) -> int | None:
        """What production names, as a reader sees it."""
        aliases = json.loads(self.run("rita", "alias", "list", NAME, "--format", "json"))
        return next((each["number"] for each in aliases if each["alias"] == "production"), None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with workplace.opened(tmp_path_factory.mktemp("promoting")) as found, found.worker(forks=True):
        yield found


@pytest.fixture(scope="module")
def team(place: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Team:
    """The two versions of the page, and nothing else."""
    folder = tmp_path_factory.mktemp("team")
    rows = [json.dumps({"prompt": f"{n % 8} times {n // 8} is ", "completion": f"{n % 8 + 1}"}) for n in range(48)]
    (folder / "few.jsonl").write_text("\n".join(rows[:24]) + "\n")
    (folder / "held.jsonl").write_text("\n".join(rows[24:]) + "\n")
    (policy,) = re.findall(r"<!-- file: policy.yaml -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    (folder / "policy.yaml").write_text(policy)
    made = Team(place.world.url, folder)
    for name, role in PEOPLE.items():
        made.secrets[name] = place.world.services.tokens.create(name=name, grants={"team": role}, who=SYSTEM).secret
    with closing(Client(made.url, made.secrets["will"], cache=folder / "wills")) as will:
        for steps in (60, 2):
            given = {"method": "lora", "targets": "all-linear", "lr": 1e-2, "batch_size": 8, "grad_accum": 1}
            job = will.submit_training(NAME, base="tiny", data=folder / "few.jsonl", max_steps=steps, seed=1, **given)
            job.wait(300)
    return made


def test_six_commands_lead_from_no_policy_to_two_approvals(team: Team) -> None:
    done = team.follow("first")
    assert len(done) == 6
    refused, moved = done[2], done[-1]
    assert "scores team/code-review@v1" in refused.stderr
    assert "don't let it move to v1 (failed: 2 approvals); see why with: adapterctl decisions show" in refused.stderr
    assert moved.stdout == f"{NAME}@v1\n"
    assert team.named() == 1


def test_a_bad_version_is_refused_and_its_decision_is_a_page(team: Team) -> None:
    refused, listed = team.follow("bad")
    assert "failed: loss on held.jsonl@v1 at most 3" in refused.stderr
    assert team.named() == 1
    decision = json.loads(team.run("rita", "decisions", NAME, "--format", "json"))[0]
    assert decision["decision"] in listed.stdout
    outcomes = {rule["rule"]: rule["outcome"] for rule in decision["rules"]}
    assert outcomes["loss on held.jsonl@v1 at most 3"] == "failed"
    (compared,) = [rule for rule in decision["rules"] if "not worse" in rule["rule"]]
    assert compared["outcome"] == "failed"
    assert "it is worse by" in compared["message"]
    page = team.run("rita", "decisions", "show", decision["decision"], "--format", "markdown")
    assert page.startswith(f"# {NAME}@production to v2: refused\n")
    # The page shows the same one, but for its numbers, its id and its time.
    (shown,) = re.findall(r"<!-- decision -->\n```markdown\n(.*?)```", PAGE, re.DOTALL)
    assert _without_numbers(shown) == _without_numbers(page)


def _without_numbers(page: str) -> list[str]:
    page = re.sub(r"(decision|digest): [0-9a-f]+", r"\1: ID", page)
    return re.sub(r"-?\d+(\.\d+)?(e-\d+)?", "N", page).splitlines()


def test_whether_it_would_move_is_told_by_the_exit_code(team: Team) -> None:
    document = json.loads(
        team.run("cat", "promote", f"{NAME}@v2", "production", "--check", "--format", "json", status=4)
    )
    assert {"ref", "alias", "decision", "rules", "moved"} <= set(document)
    assert (document["ref"], document["moved"], document["outcome"]) == (f"{NAME}@v2", False, "refused")
    assert "loss is" in team.run("cat", "promote", f"{NAME}@v1", "production", "--check")
    team.run("will", "promote", f"{NAME}@v1", "production", "--check", status=5)
    assert team.named() == 1


def test_what_is_shown_of_a_policy_sets_the_same_again(team: Team) -> None:
    team.run("boss", "policy", "set", "team/*", "policy.yaml")
    shown = team.run("rita", "policy", "show", NAME)
    assert "# team/*@production, version 1, set by boss" in shown
    (team.folder / "shown.yaml").write_text(shown)
    team.run("boss", "policy", "set", NAME, "shown.yaml")
    versions = json.loads(team.run("rita", "policy", "history", NAME, "production", "--format", "json"))
    assert [each["version"] for each in versions] == [1]
    team.run("boss", "policy", "rm", "team/*", "production", "--yes")
    team.run("ann", "policy", "set", NAME, "shown.yaml", status=5)


def test_an_override_stays_in_the_audit_and_in_the_history(team: Team) -> None:
    moved, audited, history = team.follow("override")
    assert moved.stdout == f"{NAME}@v2\n"
    assert "alias.override" in audited.stdout
    (entry,) = json.loads(team.run("boss", "audit", "--action", "alias.override", "--format", "json"))
    assert (entry["actor"], entry["after"]["reason"]) == ("boss", "v1 leaks a key")
    assert "set, overridden" in history.stdout
    decision = json.loads(team.run("rita", "decisions", NAME, "--format", "json"))[0]
    assert (decision["outcome"], decision["reason"]) == ("overridden", "v1 leaks a key")
    team.run("cat", "promote", f"{NAME}@v2", "production", "--override", "--reason", "me too", status=5)


def test_a_rollback_goes_to_what_a_decision_has_passed(team: Team) -> None:
    (back,) = team.follow("rollback")
    assert back.stdout == f"{NAME}@v1\n"
    assert team.named() == 1


def test_policies_and_votes_are_listed_and_taken_back(team: Team) -> None:
    _, shown, history, listed, _ = team.follow("policies")
    assert "# team/code-review@production" in shown.stdout
    assert history.stdout
    assert "team/*" in listed.stdout
    *_, votes, _, _ = team.follow("approvals")
    assert "it names customers" in votes.stdout
    (audited,) = team.follow("automatic")
    assert audited.returncode == 0


def test_the_program_of_the_page_promotes(team: Team) -> None:
    env = processes.environment(
        ADAPTERCTL_URL=team.url,
        ADAPTERCTL_TOKEN=team.secrets["boss"],
        HOME=str(team.folder),
        ADAPTERCTL_CACHE=str(team.folder / "bosses"),
    )
    done = processes.run("python", "-c", pages.block("promoting.md", "python"), env=env, cwd=team.folder)
    assert done.returncode == 0, done.stderr
    assert "loss on held.jsonl" in done.stdout
    assert team.named() == 1


def test_a_veto_stands_until_it_is_withdrawn(team: Team) -> None:
    team.run("ben", "disapprove", f"{NAME}@v1", "--for", "production", "--reason", "names customers")
    team.run("ben", "disapprove", f"{NAME}@v1", "--for", "production", "--reason", "leaks a key")
    assert "it was given before, and its reason stays; to change it, withdraw it first" in team.said[-1].stderr
    assert "disapproved by ben (names customers)" in team.run(
        "cat", "promote", f"{NAME}@v1", "production", "--check", status=4
    ).replace("\n         ", " ")
    team.run("ann", "disapprove", f"{NAME}@v1", "--for", "production", "--withdraw", status=3)
    team.run("ben", "disapprove", f"{NAME}@v1", "--for", "production", "--withdraw")
    assert "\tdisapprove\tit was withdrawn\t" in team.run("rita", "approvals", NAME)
