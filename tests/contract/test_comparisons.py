"""Versions are compared by the rows that they were scored on: like with like alone, by whoever may read them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from support.compared import COLUMNS, Bench, scored, write_rows
from support.merging_desk import MergingDesk
from support.registries import World
from support.scored_rows import CONDITIONS, evaluated
from support.trainings import save_jsonl

from registry.evaluations.models import Evaluation
from registry.principal import Role
from sdk.api import evaluations
from sdk.client import Client
from sdk.errors import Conflict, InvalidInput, NotFound
from sdk.schemas.evaluation import RowScore
from sdk.schemas.scores import Comparison
from sdk.schemas.wire import digest_of


@pytest.fixture
def bench(desk: MergingDesk, tmp_path: Path) -> Bench:
    return Bench(desk, write_rows(tmp_path / "rows.jsonl"))


def compare(bench: Bench, *refs: str, **asked: Any) -> Comparison:
    return bench.desk.writer.compare(refs, **asked)


class TestVerdicts:
    def test_less_loss_is_better(self, bench: Bench) -> None:
        one, two = bench.pair(loss=0.8)
        found = compare(bench, one, two)
        (pair,) = found.pairs
        assert (found.metric, found.lower_is_better, found.rows, found.refs) == ("loss", True, 48, [one, two])
        assert pair.better == two
        assert pair.difference == pytest.approx(found.scores[1].score - found.scores[0].score)
        assert pair.low < pair.difference < pair.high < 0
        assert pair.verdict.startswith("v2 beats v1 on loss by 0.")
        assert pair.p == pair.p_adjusted == 1e-4
        # The score is the one that its record has.
        assert found.scores[1].score == pytest.approx(bench.desk.writer.get(two).evaluations[0].metrics["loss"])

    def test_more_of_anything_else_is(self, bench: Bench) -> None:
        one, two = bench.pair(rouge=0.7)
        (pair,) = compare(bench, one, two, metric="rouge_l").pairs
        assert pair.better == two
        assert pair.verdict.startswith("v2 beats v1 on ROUGE-L by 0.")
        (other,) = compare(bench, two, one, metric="rouge_l").pairs
        assert (other.better, other.difference, other.low, other.p) == (
            two, -pair.difference, None if pair.high is None else -pair.high, pair.p,
        )  # fmt: skip
        assert other.verdict == pair.verdict

    def test_bits_per_byte_are_compared_whatever_the_tokens(self, bench: Bench) -> None:
        """Of rows whose texts are equally long, whatever tokens they are of: each weighs its bytes, its end none."""
        texts = [RowScore(**{**row.model_dump(), "text_bytes": 2 * row.tokens, "end_loss": 1.0}) for row in scored(48)]
        # Twice as many tokens, and half a nat less on each text.
        other = [row.model_copy(update={"tokens": 2 * row.tokens, "loss_sum": row.loss_sum - 0.5}) for row in texts]
        one, two = bench.score(texts), bench.score(other, tokenizer="e" * 64)
        found = compare(bench, one, two, metric="bits_per_byte")
        (pair,) = found.pairs
        assert found.lower_is_better
        recorded = [bench.desk.writer.get(ref).evaluations[0].metrics["bits_per_byte"] for ref in (one, two)]
        assert [each.score for each in found.scores] == pytest.approx(recorded)
        assert pair.difference == pytest.approx(-48 * 0.5 / math.log(2) / sum(row.text_bytes or 0 for row in texts))
        assert pair.better == two
        with pytest.raises(Conflict, match=r"losses per token can't be compared .* compare by metric=bits_per_byte"):
            compare(bench, one, two)
        # One row was cut after other bytes.
        cut = [other[0].model_copy(update={"text_bytes": 1}), *other[1:]]
        three = bench.score(cut, tokenizer="e" * 64)
        with pytest.raises(
            Conflict, match=r"row 0 has [0-9]+/1 bytes of text in these scores: other tokens are truncated"
        ):
            compare(bench, one, three, metric="bits_per_byte")
        old, taken = bench.desk.push(), CONDITIONS.model_copy(update={"columns": COLUMNS})
        evaluated(
            bench.desk, old, bench.data, scored(48), spec={"columns": COLUMNS}, conditions=taken, bits_per_byte=1.0
        )
        with pytest.raises(InvalidInput, match="don't say how long their texts are, since an earlier release scored"):
            compare(bench, one, old, metric="bits_per_byte")

    def test_yes_and_no_are_mcnemar_s(self, bench: Bench) -> None:
        one, two = bench.score(scored(48)), bench.score(scored(48, exact=range(9)))
        (pair,) = compare(bench, one, two, metric="exact_match").pairs
        assert (pair.test, pair.p, pair.better) == ("mcnemar", 2 / 2**9, two)

    def test_what_is_not_shown_says_what_could_be(self, bench: Bench) -> None:
        # Of other numbers one pair in 20 would be told apart.
        one, two = bench.score(scored(48, seed=11)), bench.score(scored(48, loss=0.99, seed=12))
        (pair,) = compare(bench, one, two, detect=0.01).pairs
        assert pair.better is None
        assert pair.verdict.startswith("no difference shown; these 48 rows can show 0.0")
        assert pair.rows_needed == pytest.approx(48 * (pair.detectable / 0.01) ** 2, abs=1)

    def test_a_difference_of_hardly_anything_takes_no_number_of_rows(self, bench: Bench) -> None:
        one, two = bench.pair()
        (pair,) = compare(bench, one, two, detect=1e-9).pairs
        assert pair.detectable is not None
        assert pair.rows_needed is None
        with pytest.raises(InvalidInput, match=r"detect can't be '1e-200'; use a number of at least 1e-09"):
            compare(bench, one, two, detect=1e-200)

    def test_rows_that_a_score_failed_on_are_left_out_and_no_other_score_minds(self, bench: Bench) -> None:
        failing = [
            row.model_copy(update={"scores": {"rouge_l": row.scores["rouge_l"]}}) if row.row == 5 else row
            for row in scored(48)
        ]
        one = bench.score(failing, failed={"exact_match": digest_of([5])})
        two = bench.score(scored(48))
        found = compare(bench, one, two)
        assert (found.rows, found.notes) == (48, [])
        found = compare(bench, one, two, metric="exact_match")
        assert (found.rows, found.notes) == (47, ["1 row is left out, since not every target has a score of it"])

    def test_equal_rows(self, bench: Bench) -> None:
        one, two = bench.score(scored(48, seed=3)), bench.score(scored(48, seed=3))
        (pair,) = compare(bench, one, two).pairs
        assert (pair.difference, pair.p, pair.low, pair.detectable) == (0.0, 1.0, None, None)
        assert pair.verdict == "no difference shown: all 48 rows score the same"
        (pair,) = compare(bench, one, two, metric="exact_match").pairs
        assert (pair.low, pair.high) == (pytest.approx(-0.074, abs=1e-3), pytest.approx(0.074, abs=1e-3))

    def test_several_are_compared_each_with_each_and_p_counts_them(self, bench: Bench) -> None:
        refs = [bench.score(scored(48)), bench.score(scored(48, loss=0.95)), bench.score(scored(48))]
        found = compare(bench, *refs)
        assert [(pair.a, pair.b) for pair in found.pairs] == [
            (refs[0], refs[1]),
            (refs[0], refs[2]),
            (refs[1], refs[2]),
        ]
        (alone,) = compare(bench, *refs[:2]).pairs
        assert found.pairs[0].p == alone.p
        assert (found.pairs[0].low, found.pairs[0].high) == (alone.low, alone.high)
        assert found.pairs[0].p_adjusted >= alone.p
        assert found.pairs[0].detectable > alone.detectable

    def test_groups_are_what_counts(self, bench: Bench) -> None:
        # With noise of its own, whichever tests ran before: of equal models, some draws differ by chance.
        one, two = (bench.score(scored(48, seed=seed)) for seed in (1, 2))
        (pair,) = compare(bench, one, two).pairs
        found = compare(bench, one, two, by="repo")
        assert (found.by, found.groups, found.rows) == ("repo", 24, 48)
        assert found.pairs[0].difference == pytest.approx(pair.difference)
        assert found.pairs[0].low != pair.low
        assert "these 48 rows in 24 groups can show" in found.pairs[0].verdict
        assert compare(bench, one, two, by="repo") == found

    def test_a_group_or_row_that_outweighs_all_others_is_told(self, bench: Bench, tmp_path: Path) -> None:
        """Of 20 such groups an interval held the true difference in a tenth of all samples, where 19 in 20 are meant."""
        rows = [{"question": f"q{row}-{tmp_path}", "answer": "a", "repo": f"r{max(0, row - 40)}"} for row in range(64)]
        data = save_jsonl(tmp_path / "unlike.jsonl", rows)
        one, two = bench.score(scored(64), data=data), bench.score(scored(64, loss=0.5), data=data)
        narrow = "more than the others together: the interval is too narrow for that"
        assert compare(bench, one, two, by="repo", metric="rouge_l").notes == [
            f"one group by 'repo' has 41 of all 64 rows, {narrow}"
        ]
        assert compare(bench, one, two, metric="rouge_l").notes == []
        long = [row.model_copy(update={"tokens": 4000}) if row.row == 3 else row for row in scored(64)]
        every = sum(row.tokens for row in long)
        three, four = bench.score(long, data=data), bench.score(long, data=data)
        assert compare(bench, three, four).notes == [f"one row has 4000 of all {every} tokens, {narrow}"]

    def test_too_few_rows(self, bench: Bench, tmp_path: Path) -> None:
        few = write_rows(tmp_path / "few.jsonl", 12)
        one, two = bench.score(scored(12), data=few), bench.score(scored(12, loss=9.0), data=few)
        (pair,) = compare(bench, one, two).pairs
        assert pair.verdict == "too few rows: 12 of at least 20"
        assert (pair.low, pair.high, pair.p, pair.p_adjusted, pair.test, pair.better) == (None,) * 6
        (pair,) = compare(bench, one, two, by="repo").pairs
        assert pair.verdict == "too few groups: 6 of at least 20"

    def test_rows_that_changed_most_are_shown_with_what_was_asked(self, bench: Bench) -> None:
        rows = scored(48, noise=0.0)
        changed = [*rows[:5], rows[5].model_copy(update={"loss_sum": 1000.0, "prediction": None}), *rows[6:]]
        one, two = bench.score(rows), bench.score(changed)
        found = compare(bench, one, two, examples=3)
        assert [row.row for row in found.examples] == [5]
        (row,) = found.examples
        assert row.prompt.endswith("-5")
        assert (row.reference, row.predictions) == ("a5", ["said 5 0", None])
        assert row.scores[1] == 1000.0 / rows[5].tokens

    def test_of_a_loss_those_changed_most_that_changed_most_a_token(self, bench: Bench) -> None:
        rows = scored(48, noise=0.0)
        short, long = sorted(rows, key=lambda row: row.tokens)[:: len(rows) - 1]
        # 2 nats per token of the short row, and 1 of the long one, which are more nats.
        moved = {short.row: 2.0, long.row: 1.0}
        other = [
            row.model_copy(update={"loss_sum": row.loss_sum + row.tokens * moved.get(row.row, 0.0)}) for row in rows
        ]
        one, two = bench.score(rows), bench.score(other)
        assert [row.row for row in compare(bench, one, two, examples=2).examples] == [short.row, long.row]

    def test_a_bare_base_is_compared_too(self, bench: Bench) -> None:
        base = f"base:{bench.desk.base.id}"
        bench.score(scored(48), base)
        one = bench.score(scored(48, loss=0.5))
        found = compare(bench, base, one)
        assert found.refs == [base, one]
        assert found.pairs[0].verdict.startswith(f"{one} beats {base} on loss")

    def test_rows_without_a_score_are_left_out_of_all(self, bench: Bench) -> None:
        rows = scored(48)
        less = [row.model_copy(update={"scores": {}}) if row.row < 3 else row for row in rows]
        one, two = bench.score(rows), bench.score(less)
        found = compare(bench, one, two, metric="rouge_l")
        assert found.rows == 45
        assert found.notes == ["3 rows are left out, since not every target has a score of it"]


class TestRefused:
    def test_unlike_scores_with_what_differs(self, bench: Bench) -> None:
        one, two = bench.score(scored(48)), bench.score(scored(48), stop_ids=[9], tokenizer="c" * 64)
        with pytest.raises(
            Conflict, match=r"since they differ in stop_ids, tokenizer; score them in one job: adapterctl"
        ) as caught:
            compare(bench, one, two)
        assert f"adapterctl eval {one} {two} --data " in caught.value.message
        bench.score(scored(48), two)
        assert compare(bench, one, two).rows == 48

    def test_the_same_version_twice(self, bench: Bench) -> None:
        one = bench.score(scored(48))
        bench.desk.writer.set_alias(bench.desk.named("a"), "live", 1)
        with pytest.raises(InvalidInput, match="are the same version; name two that differ"):
            compare(bench, one, f"{bench.desk.named('a')}@live")
        for refs in ([one], [one] * 9, one):
            with pytest.raises(InvalidInput, match="a comparison is of 2 to 8 versions or bases; name them all"):
                bench.desk.writer.compare(refs)

    def test_a_version_without_scores(self, bench: Bench) -> None:
        one, two = bench.score(scored(48)), bench.desk.push()
        with pytest.raises(
            NotFound, match=rf"{two} has no scores; score them in one job: adapterctl eval {one} {two} --data"
        ):
            compare(bench, one, two)

    def test_scores_without_rows(self, people: World, bench: Bench) -> None:
        one, two = bench.pair()
        with people.services.db.write() as session:
            session.execute(update(Evaluation).where(Evaluation.label == two).values(rows_digest=None))
        with pytest.raises(NotFound, match=rf"the scores of {two} have no rows: .*adapterctl eval"):
            compare(bench, one, two)

    def test_other_rows(self, bench: Bench, tmp_path: Path) -> None:
        other = write_rows(tmp_path / "other.jsonl")
        one, two = bench.score(scored(48)), bench.score(scored(48), data=other)
        with pytest.raises(Conflict, match=rf"scored on different rows: {one} on [0-9a-f]{{12}}; {two} on"):
            compare(bench, one, two)
        with pytest.raises(NotFound, match=rf"{one} has no scores on"):
            compare(bench, one, two, data=bench.desk.writer.get(two).evaluations[0].dataset)

    def test_several_datasets_are_chosen_from(self, bench: Bench, tmp_path: Path) -> None:
        one, two = bench.pair()
        other = write_rows(tmp_path / "other.jsonl")
        for ref in (one, two):
            bench.score(scored(48), ref, data=other)
        with pytest.raises(InvalidInput, match="several datasets; choose one with data="):
            compare(bench, one, two)
        digest = bench.desk.writer.get(two).evaluations[0].dataset
        assert compare(bench, one, two, data=digest[:12]).dataset == digest
        assert (
            compare(bench, one, two, data=other).dataset == compare(bench, one, two, data=str(other)).dataset != digest
        )

    def test_a_file_that_nothing_was_scored_on(self, bench: Bench, tmp_path: Path) -> None:
        one, two = bench.pair()
        for name, said in {
            "new.jsonl": "nothing was scored on the rows of .*: adapterctl eval",
            "missing.jsonl": "can't be read",
        }.items():
            if name == "new.jsonl":
                write_rows(tmp_path / name)
            with pytest.raises((NotFound, InvalidInput), match=said) as caught:
                compare(bench, one, two, data=tmp_path / name)
            assert caught.value.param == "data"
        os.mkfifo(tmp_path / "pipe")
        for given in (tmp_path, tmp_path / "pipe", "a/\0"):
            with pytest.raises(InvalidInput, match="it is not a file; check the path"):
                compare(bench, one, two, data=given)

    @pytest.mark.parametrize("name", ["metric", "by", "data"])
    def test_an_empty_option_is_not_left_out(self, bench: Bench, name: str) -> None:
        """Else a metric that a shell's variable was to name would be the loss."""
        one, two = bench.pair()
        with pytest.raises(InvalidInput, match=f"^{name} is empty; give one, or leave it out") as caught:
            compare(bench, one, two, **{name: ""})
        assert caught.value.param == name
        with pytest.raises(InvalidInput) as caught:
            evaluations.compare(bench.desk.writer.transport, [one, two], **{name: ""})
        assert caught.value.param == name

    def test_a_metric_that_rows_have_not(self, bench: Bench) -> None:
        one, two = bench.pair()
        with pytest.raises(InvalidInput, match="have no 'bleu'; they have: loss, exact_match, rouge_l") as caught:
            compare(bench, one, two, metric="bleu")
        assert caught.value.param == "metric"
        with pytest.raises(InvalidInput, match="perplexity is made of the loss"):
            compare(bench, one, two, metric="perplexity")

    def test_a_column_that_rows_have_not(self, bench: Bench) -> None:
        one, two = bench.pair()
        with pytest.raises(
            InvalidInput,
            match="line 1 has nothing in the column `team` that rows are grouped by, but the keys `question`, `answer`, `repo`",
        ):
            compare(bench, one, two, by="team")

    def test_rows_of_a_dataset_that_was_removed_are_compared_and_not_grouped(self, bench: Bench) -> None:
        one, two = bench.pair()
        bench.desk.writer.datasets.remove(bench.desk.writer.get(one).evaluations[0].dataset)
        found = compare(bench, one, two, examples=1)
        assert found.examples[0].prompt is None
        assert found.notes[0].startswith("prompts are not shown: the dataset")
        with pytest.raises(InvalidInput, match=r"can't be grouped by 'repo': the dataset .* was removed"):
            compare(bench, one, two, by="repo")

    def test_other_tokens_in_a_row(self, bench: Bench) -> None:
        rows = scored(48)
        other = [rows[0].model_copy(update={"tokens": 999}), *rows[1:]]
        one, two = bench.score(rows), bench.score(other)
        with pytest.raises(
            Conflict, match=r"row 0 has \d+/999 tokens in these scores, which were truncated differently"
        ):
            compare(bench, one, two)

    def test_another_base(self, bench: Bench, acting: Callable[..., Client], tmp_path: Path) -> None:
        desk = bench.desk
        other = MergingDesk.open(desk.writer, desk.worker, desk.space, tmp_path)
        one = bench.score(scored(48))
        two = other.push("b")
        evaluated(
            other,
            two,
            bench.data,
            scored(48),
            spec={"columns": COLUMNS},
            conditions=CONDITIONS.model_copy(update={"columns": COLUMNS}),
        )
        with pytest.raises(
            Conflict, match=rf"{one} is over the base .* and {two} over .*adapterctl compare REF base:ID"
        ):
            compare(bench, one, two)


class TestWhoMay:
    def test_whoever_may_not_read_one_finds_none(self, bench: Bench, acting: Callable[..., Client], space: str) -> None:
        one, two = bench.pair()
        assert acting(**{space: Role.READER}).compare([one, two]).rows == 48
        other = f"{space}-x"
        stranger = acting(**{other: Role.ADMIN})
        desk = MergingDesk.open(stranger, bench.desk.worker, other, bench.desk.tmp_path)
        mine = desk.push()
        for refs in ([one, two], [mine, two]):
            with pytest.raises(NotFound, match=rf"there is no {refs[-2 if refs[0] == one else -1]}"):
                stranger.compare(refs)

    def test_the_newest_that_are_alike_are_taken(self, bench: Bench) -> None:
        one, two = bench.pair()
        bench.score(scored(48, loss=0.1), two)
        first = compare(bench, one, two)
        assert first.pairs[0].better == two
        bench.score(scored(48, loss=5.0), two, stop_ids=[9])
        assert compare(bench, one, two) == first


def test_scores_that_are_no_numbers_never_reach_it(bench: Bench, tmp_path: Path) -> None:
    rows = [RowScore(row=row, tokens=3, loss_sum=None if row % 2 else 1.0) for row in range(60)]
    data = write_rows(tmp_path / "more.jsonl", 60)
    one, two = bench.score(rows, data=data), bench.score(rows, data=data)
    found = compare(bench, one, two)
    assert (found.rows, found.notes) == (30, [])
