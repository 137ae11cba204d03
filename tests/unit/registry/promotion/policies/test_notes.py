"""What readers of a policy should know of it."""

from __future__ import annotations

from typing import Any

import pytest

from registry.promotion.policies.notes import Note, UsedRows, notes_on
from registry.promotion.policies.showing import without_rows
from sdk.schemas.policies import PolicyDocument

DATA, OTHER = "a" * 64, "b" * 64


def policy(*rules: dict[str, Any], **given: Any) -> PolicyDocument:
    ours = [{"data": DATA, "data_name": "held@v1", "metrics": {"loss": {"at_most": 2.5}}, **rule} for rule in rules]
    return PolicyDocument.model_validate({"alias": "production", "require": ours, **given})


def of(metric: str, **asked: Any) -> dict[str, Any]:
    return {"metrics": {metric: asked}}


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (policy(), "it asks for nothing but a promoter; give rules under require, or approvals"),
        (policy(of("loss", not_worse_than=0.1)), "it has no floor: the first version that the alias names"),
        (policy(of("rouge_l", at_least=0)), "every rouge_l is at least 0, so that held@v1 decides nothing"),
        (policy(of("accuracy", at_least=0.5, not_worse_than=1)), "no accuracy is worse than another by more than 1"),
        (policy(of("loss", at_most=2, not_worse_than=0)), "loss on held@v1 may not be worse at all"),
    ],
)
def test_a_policy_tells_what_it_does_not_ask_for(document: PolicyDocument, text: str) -> None:
    assert [note.text for note in notes_on(document) if note.text.startswith(text)] != []


@pytest.mark.parametrize("document", [policy({}), policy(approvals=1), policy({}, of("loss", not_worse_than=0.1))])
def test_nothing_is_noted_of_a_policy_with_a_floor(document: PolicyDocument) -> None:
    assert notes_on(document, {DATA: UsedRows(1000, 0)}) == []


def test_more_approvals_than_there_are_people_are_noted() -> None:
    assert notes_on(policy(approvals=2), approvers=2) == []
    assert notes_on(policy(approvals=2), approvers=1)[0].text.startswith(
        "it needs 2 approvals, and 1 token may approve"
    )


class TestUsedRows:
    def found(self, tries: int, rows: int | None = 100, **given: Any) -> list[Note]:
        return notes_on(policy({}, **given), {DATA: UsedRows(rows, tries)})

    def test_rows_are_used_up_at_some_number_of_tries(self) -> None:
        noted = [bool(self.found(tries)) for tries in range(200)]
        # Once they are, they stay so.
        assert noted == sorted(noted)
        assert not noted[0]
        assert noted[-1]

    def test_of_answers_only_the_rows_that_are_answered_are_counted(self) -> None:
        answered = {**of("rouge_l", at_least=0.3), "min_rows": 20, "evaluation": {"generate_rows": 20}}
        (note,) = notes_on(policy(answered), {DATA: UsedRows(1000, 3)})
        assert note.text.startswith("held@v1 has 1000 rows, of which the first 20 are answered, by which 3 versions of")
        assert notes_on(policy({"min_rows": 20}), {DATA: UsedRows(1000, 3)}) == []

    def test_the_note_says_how_many_rows_the_next_one_needs(self) -> None:
        note = self.found(199)[0]
        begins = "held@v1 has 100 rows, by which 199 versions of this adapter were judged: the next one needs "
        assert note.data == DATA
        assert note.text.startswith(begins)
        needed = int(note.text.removeprefix(begins).removesuffix(" rows or fresh ones"))
        assert self.found(199, rows=needed) == []
        assert self.found(199, rows=needed - 1) != []

    def test_few_rows_are_told_of_before_the_first_try(self) -> None:
        (note,) = self.found(0, rows=24)
        assert note.text == "held@v1 has 24 rows, and the first version of an adapter that they judge needs 30"

    def test_a_score_that_decides_itself_uses_no_rows_up(self) -> None:
        document = policy(of("loss", at_most=2.5, point=True))
        assert notes_on(document, {DATA: UsedRows(20, 1000)}) == []

    def test_rows_that_nobody_has_counted_are_not_judged(self) -> None:
        assert self.found(1000, rows=None) == []

    def test_the_last_of_an_automatic_policy_is_looked_at_from_the_beginning(self) -> None:
        assert self.found(0, promote="automatic", cap=10) == []
        assert "the last of 1000 versions needs" in self.found(0, promote="automatic", cap=1000)[0].text


class TestHiding:
    def test_rules_over_rows_that_may_not_be_read_are_left_out(self) -> None:
        document = policy({}, {"data": OTHER}, contamination={})
        assert without_rows(document, {DATA, OTHER}) == (document, 0)
        seen, hidden = without_rows(document, {DATA})
        assert ([rule.data for rule in seen.require], hidden) == ([DATA], 1)
        assert seen.contamination is not None

    def test_what_is_left_can_be_read_by_a_client(self) -> None:
        document = policy({}, {"data": OTHER}, contamination={}, evaluate="on_ready", approvals=1)
        seen, hidden = without_rows(document, set())
        assert hidden == 3
        assert PolicyDocument.model_validate(seen.model_dump(mode="json")) == seen
        assert (seen.require, seen.approvals) == ([], 1)
