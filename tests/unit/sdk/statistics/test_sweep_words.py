"""Sentences on sweeps: each kind of outcome, and what a reader should know beside it."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np
import pytest

from sdk.schemas.sweep_axes import Setting
from sdk.schemas.sweeps import SweepVerdict
from sdk.statistics.sweep_words import TrialFacts, verdict_of
from sdk.statistics.sweeps import SettingScores, judge

RANKS: list[Setting] = [{"rank": rank, "epochs": 1} for rank in (1, 2, 4, 8, 16)]
CHOSEN = "The winner was chosen by these rows, which makes its score look a little better than it is; its score on test rows is unbiased (--test-data)."


def _around_zero(values: np.ndarray, masses: np.ndarray) -> np.ndarray:
    return values - np.average(values, weights=masses)


def verdict(
    means: Sequence[float],
    settings: Sequence[Setting] = RANKS,
    *,
    seeds: int = 3,
    rows: int = 100,
    noise: float = 0.01,
    shift: Sequence[Sequence[float]] = (),
    seconds: Sequence[float] = (),
    pruned: Sequence[int] = (),
    metric: str = "eval_loss",
    masses: np.ndarray | None = None,
) -> SweepVerdict:
    """What is said of settings with these scores; each adapter is as large as its rank."""
    rng = np.random.default_rng(3)
    masses = np.ones(rows) if masses is None else masses
    between, scores = noise / 10 * (np.arange(seeds) - (seeds - 1) / 2)[:, None], []
    shared = _around_zero(rng.normal(0, 0.3, rows), masses)
    for place, mean in enumerate(means):
        own = mean + shared + _around_zero(rng.normal(0, noise, rows), masses) + between
        more = np.array(shift[place])[:, None] if place < len(shift) and shift[place] else 0.0
        scores.append(SettingScores((own + more) * masses, masses))
    lower, margin = metric == "eval_loss", 0.01
    found = judge(scores, margin=margin, lower_is_better=lower, seed="a sweep")
    times = [*seconds, *[100.0] * len(settings)]
    trials = [
        TrialFacts(
            place + 1,
            setting,
            [place * seeds + one + 1 for one in range(seeds)],
            without="pruned" if place in pruned else None,
            size_bytes=1e6 * float(setting.get("rank") or 1),
            train_s=times[place],
        )
        for place, setting in enumerate(settings)
    ]
    return verdict_of(found, trials, metric=metric, lower_is_better=lower, margin=margin)


def test_the_smallest_of_those_that_are_as_good_is_recommended_and_the_best_still_wins() -> None:
    found = verdict([1.05, 1.03, 1.0015, 1.0, 1.001])
    assert [one.setting["rank"] for one in found.settings] == [8, 16, 4, 2, 1]
    assert found.recommendation == (
        "Rank 8 has the lowest held-out loss, 1.000 ± 0.032. Rank 4 and 16 are as good (within 1 %); rank 1 and 2 are worse by "
        "0.030 to 0.050. Take rank 4: it is the smallest of those that are as good, though rank 8 wins by its score."
    )
    assert found.notes == [CHOSEN]
    assert (found.rows, found.seeds, found.told_apart) == (100, 3, False)
    assert [found.settings[0].outcome, found.settings[1].outcome, found.settings[4].outcome] == [
        "best",
        "as good",
        "worse",
    ]


def test_the_best_is_recommended_where_it_is_the_smallest() -> None:
    assert verdict([1.05, 1.03, 1.0, 1.001, 1.001]).recommendation.endswith(
        "Take rank 4: it is the smallest of those that are as good."
    )


def test_a_single_other_setting_is_told_with_its_interval() -> None:
    found = verdict([1.05, 1.0], RANKS[:2])
    worse = found.settings[1]
    assert (
        f"Rank 1 is worse by {worse.difference:.4f} [{worse.low:.4f}, {worse.high:.4f}]. Take rank 2."
        in found.recommendation
    )
    assert found.told_apart


def test_settings_that_are_not_told_apart_are_said_with_what_could_be_shown() -> None:
    found = verdict([1.0, 1.001], RANKS[:2], noise=0.1)
    assert "is not told apart from it: these 100 rows and 3 seeds can show 0.0" in found.recommendation
    assert found.recommendation.endswith("if you must choose now; more rows or seeds would show more.")


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ([1.2, 1.1, 1.0], ["The best learning rate is the largest that was tried: try larger ones."]),
        ([1.0, 1.1, 1.2], ["The best learning rate is the smallest that was tried: try smaller ones."]),
        ([1.1, 1.0, 1.2], []),
        # It has stopped to matter.
        ([1.2, 1.001, 1.0], []),
    ],
)
def test_a_best_value_at_the_edge_of_what_was_tried_is_said(means: list[float], words: list[str]) -> None:
    found = verdict(means, [{"lr": 1e-4}, {"lr": 3e-4}, {"lr": 1e-3}])
    assert found.notes == [*words, CHOSEN]


def test_no_rank_below_one_is_proposed() -> None:
    assert verdict([1.0, 1.1, 1.2], RANKS[:3]).notes == [CHOSEN]


def test_settings_of_several_options_are_named_by_those_that_vary() -> None:
    settings: list[Setting] = [{"rank": rank, "lr": lr, "epochs": 2} for rank in (4, 8) for lr in (1e-4, 1e-3)]
    assert verdict([1.1, 1.0, 1.1, 1.2], settings).recommendation.startswith("Rank 4 with learning rate 0.001 has")
    dora: list[Setting] = [{"use_dora": False}, {"use_dora": True}]
    found = verdict([1.001, 1.0], dora, seconds=[100, 200])
    assert found.recommendation.endswith(
        "Take DoRA off: it is the quickest to train of those that are as good, though DoRA on wins by its score."
    )
    # Seconds vary by chance.
    assert verdict([1.001, 1.0], dora, seconds=[100, 102]).recommendation.endswith("Take DoRA on.")


def test_many_settings_are_counted_rather_than_named() -> None:
    found = verdict([1.1] * 9 + [1.0], [{"lr": 0.001 * place} for place in range(1, 11)])
    assert "Learning rate 0.001, learning rate 0.002 and 7 others are worse by" in found.recommendation


def test_one_seed_is_said_to_tell_of_these_trainings_alone() -> None:
    found = verdict([1.1, 1.0], RANKS[:2], seeds=1)
    assert any(
        note.startswith("Each setting was trained with one seed, so this holds for these trainings alone")
        for note in found.notes
    )
    assert (found.seeds, found.told_apart) == (1, True)


def test_a_score_that_is_higher_for_the_better_is_said_so() -> None:
    found = verdict([0.5, 0.7, 0.6], RANKS[:3], metric="rouge_l")
    assert found.recommendation.startswith(
        "Rank 2 has the highest ROUGE-L, 0.700 ± 0.032. Rank 1 and 4 are worse by 0.10 to 0.20."
    )


def test_few_rows_are_said_to_be_too_few() -> None:
    found = verdict([1.1, 1.0], RANKS[:2], rows=12)
    assert found.recommendation == (
        "Rank 2 has the lowest held-out loss, 1. 12 rows are too few to show whether others are worse; at least 20 are needed."
    )
    assert found.told_apart is False
    masses = np.array([1.0] * 30 + [300.0])
    heavy = verdict([1.0, 1.0], RANKS[:2], rows=31, masses=masses)
    assert any(
        note.startswith("A few rows weigh most: these 31 say as much as 1 of equal weight") for note in heavy.notes
    )


def test_settings_that_do_not_count_are_said() -> None:
    shift = [[], [nan] * 3, [nan] * 3]
    found = verdict([1.1, 1.0, 1.0, 1.0, 1.05], shift=shift, pruned=[2])
    assert found.notes[:-1] == [
        "Without a score, since no training of it ended with a finite score: rank 2.",
        "Without a score, since it was stopped early: rank 4.",
    ]
    assert [one.outcome for one in found.settings[-2:]] == ["failed", "pruned"]
    assert found.settings[0].setting["rank"] == 8


def test_a_setting_that_diverges_with_some_seeds_is_said_to_be_judged_alone() -> None:
    assert verdict([1.1, 1.0, 1.05, 1.1], RANKS[:4], shift=[[], [], [], [0.0, 4.0, 9.0]]).notes[:-1] == [
        "The trainings of rank 8 vary far more with the seed than those of others, and it is judged by its own alone."
    ]


def test_sweeps_of_one_score_and_of_none_say_so() -> None:
    one = verdict([1.0], [{"rank": 1}])
    assert one.recommendation == "Rank 1 is the only setting with a score: its held-out loss is 1.000 ± 0.032."
    assert one.notes == []
    none = verdict([1.0, 1.0], RANKS[:2], shift=[[nan] * 3, [nan] * 3])
    assert none.recommendation == "No setting has a score, so there is nothing to recommend."
    assert (none.told_apart, [each.outcome for each in none.settings]) == (False, ["failed", "failed"])
