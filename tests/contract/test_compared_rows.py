"""What counts in a comparison: equal rows once, and rows that could not be scored not at all, which it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.compared import COLUMNS, Bench, scored, write_rows
from support.merging_desk import MergingDesk
from support.scored_rows import CONDITIONS, evaluated, fresh

from sdk.errors import VerificationFailed
from sdk.schemas.evaluation import RowScore
from sdk.schemas.scores import EvaluationView
from sdk.statistics.comparison import compare_rows, paired_ratio


@pytest.fixture
def bench(desk: MergingDesk, tmp_path: Path) -> Bench:
    return Bench(desk, write_rows(tmp_path / "rows.jsonl"))


class TestEqualRows:
    def test_one_row_written_often_is_one(self, bench: Bench, tmp_path: Path) -> None:
        data = write_rows(tmp_path / "often.jsonl", 24, distinct=1)
        one, two = bench.score(scored(24), data=data), bench.score(scored(24, loss=0.5), data=data)
        found = bench.desk.writer.compare([one, two])
        (pair,) = found.pairs
        assert pair.verdict == "too few different rows: 1 of at least 20"
        assert (pair.low, pair.p, pair.better, pair.detectable) == (None, None, None, None)
        assert (found.rows, found.distinct_rows, found.groups, found.by) == (24, 1, None, None)
        assert found.notes == ["24 of the rows equal others, and equal rows count as one, which leaves 1 different row"]
        assert "24 rows, 1 of them different; less" in found.heading

    def test_those_that_are_equal_are_drawn_together(self, bench: Bench, tmp_path: Path) -> None:
        data = write_rows(tmp_path / "twice.jsonl", 60, distinct=30)
        rows = [scored(60, seed=seed, loss=loss) for seed, loss in ((13, 1.0), (14, 1.0))]
        one, two = (bench.score(each, data=data) for each in rows)
        found = bench.desk.writer.compare([one, two])
        sums = [np.array([row.loss_sum for row in each]) for each in rows]
        masses = np.array([float(row.tokens) for row in rows[0]])
        together = paired_ratio(sums[1] - sums[0], masses, groups=np.arange(60) % 30)
        (pair,) = found.pairs
        assert found.distinct_rows == 30
        assert pair.difference == pytest.approx(together.difference)
        assert pair.detectable == pytest.approx(together.standard_error * 2.8016, rel=1e-3)
        assert "no difference shown; these 60 rows, 30 of them different, can show 0.0" in pair.verdict
        grouped = bench.desk.writer.compare([one, two], by="repo")
        assert (grouped.distinct_rows, grouped.groups, grouped.notes) == (None, 30, [])

    def test_where_none_are_nothing_changes(self, bench: Bench) -> None:
        rows = [scored(48, seed=7), scored(48, seed=8, loss=0.97)]
        one, two = (bench.score(each) for each in rows)
        found = bench.desk.writer.compare([one, two])
        digests = sorted(_newest(bench, ref).rows_digest or "" for ref in (one, two))
        sums = [np.array([row.loss_sum for row in each]) for each in rows]
        masses = np.array([float(row.tokens) for row in rows[0]])
        alone = compare_rows(paired_ratio(sums[1] - sums[0], masses), seed="\n".join([*digests, "loss"]))
        (pair,) = found.pairs
        assert (pair.difference, pair.low, pair.high, pair.p) == (alone.difference, alone.low, alone.high, alone.p)
        assert (found.distinct_rows, found.notes) == (None, [])
        assert "distinct_rows" not in found.model_dump()


class TestFewDifferingRows:
    """A verdict is that of the test; an interval says what so few rows can't know."""

    @staticmethod
    def better_in(rows: int, **by: float) -> list[RowScore]:
        return [
            row.model_copy(
                update={
                    "loss_sum": row.loss_sum - by.get("loss", 0.0) * (1 + row.row),
                    "scores": {**row.scores, "rouge_l": row.scores["rouge_l"] + by.get("rouge", 0.0) * (1 + row.row)},
                }
            )
            if row.row < rows
            else row
            for row in scored(48, seed=5, noise=0.01)
        ]

    def test_a_score_with_bounds_has_a_wide_interval_beside_its_verdict(self, bench: Bench) -> None:
        one, two = (bench.score(self.better_in(rows, rouge=0.02)) for rows in (0, 8))
        found = bench.desk.writer.compare([one, two], metric="rouge_l")
        (pair,) = found.pairs
        assert (pair.better, pair.differing, pair.coverage) == (two, 8, None)
        assert pair.low < 0 < pair.difference < pair.high
        assert pair.verdict.startswith(f"v2 beats v1 on ROUGE-L by 0.015 [-{-pair.low:.3f}, {pair.high:.3f}]")
        assert found.notes == [
            f"only 8 rows differ between {one} and {two}: the difference is significant by the test, but its 95 % interval holds 0"
        ]

    def test_a_loss_has_an_approximate_one(self, bench: Bench) -> None:
        one, two = (bench.score(self.better_in(rows, loss=0.2)) for rows in (0, 8))
        found = bench.desk.writer.compare([one, two])
        (pair,) = found.pairs
        assert (pair.better, pair.differing, pair.coverage) == (two, 8, "approximate")
        assert pair.low < pair.difference < pair.high < 0
        assert found.notes == [
            f"only 8 rows differ between {one} and {two}: the interval may hold the true difference less often than in 95 % of all cases"
        ]
        enough = bench.desk.writer.compare([bench.score(self.better_in(20, loss=0.2)), one])
        assert (enough.pairs[0].differing, enough.pairs[0].coverage, enough.notes) == (None, None, [])


class TestUnscoredRows:
    ROWS = (*scored(46, seed=9), RowScore(row=46, unscored="too_long"), RowScore(row=47, unscored="nothing_to_score"))

    def test_they_are_kept_with_why_and_in_no_other_count(self, bench: Bench) -> None:
        one = bench.score(self.ROWS)
        view = _newest(bench, one)
        assert (view.metrics["rows"], view.metrics["failed_rows"], view.metrics["unscored_rows"]) == (46, 0, 2)
        kept = bench.desk.writer.evaluations.rows(view.id)
        assert [row.unscored for row in kept[-3:]] == [None, "too_long", "nothing_to_score"]
        assert bench.desk.writer.evaluations.frame(view.id)["unscored"].tolist()[-1] == "nothing_to_score"
        slices = {one.value: one for one in bench.desk.writer.evaluations.slices(view.id, by="repo").slices}
        assert (slices["r23"].rows, slices["r23"].failed_rows, slices["r23"].unscored_rows) == (0, 0, 2)
        assert "unscored_rows" not in slices["r0"].model_dump()

    def test_a_comparison_says_how_many(self, bench: Bench) -> None:
        one, two = bench.score(self.ROWS), bench.score([*scored(46, loss=0.5), *self.ROWS[46:]])
        found = bench.desk.writer.compare([one, two])
        said = "2 rows have no score of any: none of their first 1024 tokens is supervised"
        assert (found.rows, found.notes) == (46, [said])

    def test_and_how_many_were_cut_where_that_matters(self, bench: Bench) -> None:
        one, two = bench.pair()
        for ref in (one, two):
            evaluated_again(bench, ref, shortened_rows=3.0, shortened_prompt_rows=2.0, longer_reference_rows=1.0)
        found = bench.desk.writer.compare([one, two])
        assert found.notes == ["3 rows are truncated to 1024 tokens, and scored on the rest"]
        start = f"2 answers start from the last {CONDITIONS.prompt_tokens} tokens of a longer prompt"
        assert bench.desk.writer.compare([one, two], metric="rouge_l").notes == [
            start,
            f"1 row expects more than the {CONDITIONS.max_new_tokens} tokens that an answer has at most",
        ]

    @pytest.mark.parametrize("said", [0.0, 2.0])
    def test_a_count_that_is_not_that_of_the_rows(self, bench: Bench, rows: Path, said: float) -> None:
        handed_in, ref = [*fresh(), RowScore(row=9, unscored="too_long")], bench.desk.push()
        with pytest.raises(VerificationFailed, match=rf"unscored_rows of .* is given as {said}, and its rows give 1"):
            evaluated(bench.desk, ref, rows, handed_in, unscored_rows=said)

    def test_the_key_is_that_of_scores_without_and_their_means_are_not_subtracted(self, bench: Bench) -> None:
        one, two = bench.score(self.ROWS), bench.score(scored(48))
        views = [_newest(bench, ref) for ref in (one, two)]
        assert views[0].key == views[1].key
        assert not views[0].has_rows_of(views[1], "loss")
        assert views[0].has_rows_of(views[0], "loss")


def evaluated_again(bench: Bench, ref: str, **said: float) -> None:
    taken = CONDITIONS.model_copy(update={"columns": COLUMNS})
    evaluated(bench.desk, ref, bench.data, scored(48), spec={"columns": COLUMNS}, conditions=taken, **said)


def _newest(bench: Bench, ref: str) -> EvaluationView:
    views = bench.desk.writer.evaluations(digest=bench.desk.writer.get(ref).digest)
    return max(views, key=lambda one: one.created_at)
