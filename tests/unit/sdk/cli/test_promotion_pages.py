"""Policies and decisions as they are shown: within 80 columns, YAML that sets the same again, Markdown that nothing breaks out of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from sdk.cli import cli
from sdk.cli.commands import watch
from sdk.cli.support.decision_pages import document_of, facts_of, markdown_page, rule_lines, title_of
from sdk.cli.support.policy_pages import asked_of, policy_lines
from sdk.errors import AdapterctlError
from sdk.objects import Job
from sdk.schemas.decisions import Decision, DecisionOutcome, RuleOutcome, RuleResult, StandingPolicyView
from sdk.schemas.jobs import JobState
from sdk.schemas.policies import MetricRule, PolicyDocument, PolicyView, ProbeRule, RowsRule
from sdk.schemas.promotion_words import would_move
from sdk.submitting.given_policy import read_policies

AT = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)
LOSS = RowsRule(data="d" * 64, data_name="held.jsonl@v1", metrics={"loss": MetricRule(at_most=3)})


def found(
    outcome: RuleResult, rule: str = "loss on held.jsonl@v1 at most 3", message: str = "loss is 5.9"
) -> RuleOutcome:
    return RuleOutcome(
        rule=rule, kind="floor", outcome=outcome, numbers={"value": 5.90321}, message=message, scope="team/*", policy=2
    )


def decided(*rules: RuleOutcome, outcome: DecisionOutcome = "refused", moved: bool = False) -> Decision:
    return Decision(
        id="3f1c2a9b7d20aa11",
        adapter="team/sql",
        alias="production",
        kind="set",
        ref="team/sql@v3",
        digest="a" * 64,
        number=3,
        from_number=2,
        outcome=outcome,
        moved=moved,
        rules=list(rules),
        policies=[StandingPolicyView(scope="team/*", version=2, digest="b" * 64)],
        reason="beats v2",
        decided_by="ann",
        decided_at=AT,
    )


def policy(scope: str, document: PolicyDocument | None, **said: object) -> PolicyView:
    return PolicyView(
        **{
            "scope": scope,
            "alias": "production" if document is None else document.alias,
            "version": 2,
            "digest": "c" * 64,
            "policy": document,
            "created_by": "boss",
            "created_at": AT,
            **said,
        }
    )


def test_a_command_in_a_rule_is_broken_at_spaces_alone() -> None:
    command = "adapterctl approve team/a-long-name-with-hyphens@v2 --for production"
    lines = "\n".join(rule_lines(decided(found("failed", message=f"1 of 2: ann; ask somebody else to: {command}"))))
    assert "team/a-long-name-with-hyphens@v2" in lines


def test_what_did_not_pass_is_shown_first_within_80_columns() -> None:
    decision = decided(found("passed"), found("unknown", message="long " * 60), found("failed"))
    lines = "\n".join(rule_lines(decision)).splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["failed", "unknown", "passed"]
    assert max(map(len, lines)) <= 80
    assert title_of(decision) == "team/sql@production to v3: refused"


@pytest.mark.parametrize(
    ("outcome", "moved", "said"),
    [
        ("passed", False, "passed: all rules hold, and it was not asked to move"),
        ("passed", True, "passed: all rules hold"),
        ("refused", False, "refused: it did not move"),
        ("overridden", True, "overridden: an admin moved it all the same"),
        ("rolled_back", True, "rolled back: it went back to what it had named"),
    ],
)
def test_an_outcome_is_said_in_words(outcome: DecisionOutcome, moved: bool, said: str) -> None:
    decision = decided(outcome=outcome, moved=moved)
    assert dict(facts_of(decision))["outcome"] == said
    assert would_move(decision) == (outcome != "refused")


def test_the_document_of_a_decision_has_the_names_that_are_promised() -> None:
    document = json.loads(json.dumps(document_of(decided(found("failed")))))
    assert {"ref", "alias", "decision", "rules", "moved"} <= set(document)
    assert {"rule", "outcome", "numbers", "scope"} <= set(document["rules"][0])
    assert (document["decision"], "id" in document) == ("3f1c2a9b7d20aa11", False)


def test_nothing_breaks_out_of_the_markdown_page() -> None:
    hostile = "<img src=x> | [a](javascript:b)\n# heading\x1b[31m‮"
    page = markdown_page(decided(found("failed", rule=hostile, message=hostile)).model_copy(update={"reason": hostile}))
    assert "<img" not in page.replace("\\<img", "")
    assert [line[:2] for line in page.splitlines() if "heading" in line and not line.startswith(("| ", "- "))] == []
    assert not {"\x1b", "‮"} & set(page)
    (row,) = [line for line in page.splitlines() if line.startswith("| failed")]
    assert row.replace("\\|", "").count("|") == 6
    assert "value 5.903" in row


def test_what_is_shown_of_a_scope_sets_the_same_policies_again(tmp_path: Path) -> None:
    own = [
        PolicyDocument(alias="production", require=[LOSS], approvals=2),
        PolicyDocument(alias="staging", probe=ProbeRule()),
    ]
    views = [policy("team/*", PolicyDocument(alias="production", probe=ProbeRule()), version=1)]
    views += [policy("team/sql", document, notes=["a note " * 20], loosened=["less"]) for document in own]
    lines = list(policy_lines("team/sql", views))
    (tmp_path / "shown.yaml").write_text("\n".join(lines) + "\n")
    assert [each.document for each in read_policies(tmp_path / "shown.yaml")] == own
    assert any(line.startswith("# team/*@production, version 1, set by boss") for line in lines)
    assert "#   probe: {}" in lines
    assert "# - asks for less than version 1: less" in lines


def test_a_policy_of_which_rules_are_hidden_is_not_set_again(tmp_path: Path) -> None:
    shown = policy("team/sql", PolicyDocument(alias="production", approvals=2), hidden=1)
    (tmp_path / "shown.yaml").write_text("\n".join(policy_lines("team/sql", [shown])))
    with pytest.raises(Exception, match="rules that you may not see were left out"):
        read_policies(tmp_path / "shown.yaml")


def test_what_a_policy_asks_is_said_in_few_words() -> None:
    assert asked_of(PolicyDocument(alias="a", require=[LOSS], probe=ProbeRule(), approvals=1)) == (
        "loss on held.jsonl@v1; probe; 1 approval"
    )
    assert (asked_of(PolicyDocument(alias="a")), asked_of(None)) == ("nothing", "removed")


def test_a_name_after_decisions_is_an_adapter_s() -> None:
    runner = CliRunner()
    for group in ("decisions", "approvals"):
        listed = runner.invoke(cli, [group, "no/such/name"], standalone_mode=False)
        assert "no/such/name" in str(listed.exception)
        assert runner.invoke(cli, [group, "--help"]).output.startswith(f"Usage: cli {group} [OPTIONS] NAME | COMMAND")


@pytest.mark.parametrize(
    ("words", "incomplete", "completed"),
    [
        (["pol"], None, {"policy"}),
        (["policy", ""], None, {"set", "show", "list", "history", "rm"}),
        (["promote", "a@v1", "production", "--c"], None, {"--check"}),
        (["promote", "a@v1", "production", "--check", "--format", "m"], None, {"markdown"}),
        (["decisions", "s"], None, {"show"}),
        (["decisions", "sql", "--al"], None, {"--alias"}),
        (["approve", "a@v1", "--f"], None, {"--for", "--format"}),
    ],
)
def test_a_shell_completes_commands_and_options(words: list[str], incomplete: None, completed: set[str]) -> None:
    complete = ShellComplete(cli, {}, "adapterctl", "_ADAPTERCTL_COMPLETE")
    assert {item.value for item in complete.get_completions(words[:-1], words[-1])} == completed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--override --check --reason r", "an override waits for no rules; leave out --check and --wait"),
        ("--override", "an override stays in the audit trail, and needs a reason; give one"),
        ("--format markdown", "a page is about a decision; add --check"),
        ("--check --sign k.pem", "--check moves nothing that could be signed; leave out --sign"),
        ("--renew --wait", "--renew moves nothing; give it with --sign alone"),
    ],
)
def test_options_that_don_t_go_together_are_refused(
    options: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTERCTL_URL", "http://127.0.0.1:1")
    refused = CliRunner().invoke(cli, ["promote", "sql@v1", "production", *options.split()], standalone_mode=False)
    assert isinstance(refused.exception, AdapterctlError)
    assert message in refused.exception.message


def test_commands_are_groups_or_commands_with_examples() -> None:
    context = click.Context(cli)
    for name in ("promote", "rollback", "policy", "approve", "disapprove", "approvals", "decisions"):
        command = cli.get_command(context, name)
        commands = list(command.commands.values()) if isinstance(command, click.Group) else [command]
        assert [each.name for each in commands if each is None or "Example" not in (each.help or "")] == []


def test_ctrl_c_says_how_to_come_back_to_a_promotion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> Iterator[tuple[Job[Any], None]]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(watch, "follow", interrupted)
    job = SimpleNamespace(id="0ae197196a1f", view=SimpleNamespace(state=JobState.RUNNING, waits=None))
    with pytest.raises(SystemExit) as left:
        watch.watch_all([cast("Job[Any]", job)], again="adapterctl promote sql@v3 production --wait")
    assert left.value.code == 130
    said = "detached; job 0ae197196a1f keeps running. Go on with: adapterctl promote sql@v3 production --wait"
    assert said in capsys.readouterr().err
