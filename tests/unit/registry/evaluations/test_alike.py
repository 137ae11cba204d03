"""Which scores of several targets are compared: those of one key alone, the newest, whatever else there is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import Conflict, Invalid, RegistryError
from registry.evaluations.comparing.alike import ScoredTarget, scored_alike
from sdk.schemas.scores import EvaluationView

DATASETS = ("1" * 64, "2" * 64)


def evaluation(ident: int, **said: Any) -> EvaluationView:
    values = {
        "id": str(ident),
        "namespace": "team",
        "spec_digest": "5" * 64,
        "ref": "a@v1",
        "digest": None,
        "base_fingerprint": "b" * 64,
        "dataset": DATASETS[0],
        "grader": "loss",
        "precision": "float32",
        "conditions": {"tokenizer": "c" * 64, "max_length": 512},
        "metrics": {"loss": 1.0},
        "samples": [],
        "rows_digest": "d" * 64,
        "job": "j1",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=ident),
    }
    return EvaluationView.model_validate({**values, **said})


CONDITIONS = st.fixed_dictionaries(
    {"max_length": st.sampled_from([512, 1024])},
    optional={
        # On which rows a score failed is no setting.
        "failed": st.sampled_from([{"rouge_l": "1" * 64}, {"loss": "2" * 64}]),
        "tokenizer": st.sampled_from(["c" * 64, "d" * 64]),
        "loss_on": st.sampled_from(["all", "completion"]),
    },
)
SAID = st.fixed_dictionaries(
    {
        "dataset": st.sampled_from(DATASETS),
        "grader": st.sampled_from(["loss", "labels"]),
        "precision": st.sampled_from(["float32", "nf4"]),
        "base_fingerprint": st.sampled_from(["b" * 64, "b" * 64, "e" * 64]),
        "rows_digest": st.sampled_from(["d" * 64, "d" * 64, None]),
        "metrics": st.sampled_from([{"loss": 1.0}, {"loss": 1.0, "rouge_l": 0.5}]),
        "job": st.sampled_from(["j1", "j2"]),
        "conditions": CONDITIONS,
    }
)


def _found(targets: list[ScoredTarget], data: str | None, metric: str) -> list[EvaluationView] | RegistryError:
    try:
        return scored_alike(targets, data=data, metric=metric)
    except RegistryError as error:
        return error


def _newest(target: ScoredTarget, key: str, asked: str, metric: str | None) -> EvaluationView | None:
    """The newest with rows and the metric, under a key of the one that is asked for."""
    usable = [
        one
        for one in target.evaluations
        if one.key_of(asked) == key and one.rows_digest is not None and (metric is None or metric in one.metrics)
    ]
    return max(usable, key=lambda one: one.created_at, default=None)


def _complete(targets: list[ScoredTarget], data: str, asked: str, metric: str | None) -> list[str]:
    """The keys under which all targets have scores with rows, and the metric, on a dataset."""
    keys = {one.key_of(asked) for one in targets[0].evaluations if one.dataset == data}
    return [key for key in keys if all(_newest(target, key, asked, metric) for target in targets)]


@settings(max_examples=300, deadline=None)
@given(
    many=st.lists(st.lists(SAID, max_size=4), min_size=2, max_size=4),
    data=st.none() | st.sampled_from(DATASETS),
    metric=st.sampled_from(["loss", "rouge_l"]),
)
def test_unlike_scores_are_never_put_side_by_side(
    many: list[list[dict[str, Any]]], data: str | None, metric: str
) -> None:
    targets = [
        ScoredTarget(f"a@v{number}", [evaluation(10 * place + number, **said) for place, said in enumerate(given_)])
        for number, given_ in enumerate(many)
    ]
    found = _found(targets, data, metric)
    if isinstance(found, RegistryError):
        # One that was complete would have been found, unless several datasets were meant, or bases differ.
        lacks = "have rouge_l, or" in found.message or (metric == "rouge_l" and "they differ in" in found.message)
        wanted = metric if lacks else None
        assert data is None or "over the base" in found.message or not _complete(targets, data, metric, wanted)
        return
    assert len({one.key_of(metric) for one in found}) == 1
    # Losses per token are of the same tokens.
    assert metric != "loss" or len({one.conditions.get("tokenizer") for one in found}) == 1
    assert len({one.dataset for one in found}) == len({one.base_fingerprint for one in found}) == 1
    assert all(one in target.evaluations for one, target in zip(found, targets, strict=True))
    assert data in (None, found[0].dataset)
    # Rows without the metric are taken where there are none with it, and say so.
    wanted = metric if _complete(targets, found[0].dataset, metric, metric) else None
    assert all(
        one == _newest(target, one.key_of(metric), metric, wanted) for one, target in zip(found, targets, strict=True)
    )


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"precision": "nf4"}, "precision"),
        ({"grader": "other"}, "grader"),
        ({"conditions": {"tokenizer": "c" * 64, "max_length": 64, "loss_on": "all"}}, "max_length, loss_on"),
        # What an adapter changed elsewhere is of the texts of a release; those of the first had none.
        ({"conditions": {"tokenizer": "c" * 64, "max_length": 512, "general_texts": "e" * 64}}, "general_texts"),
    ],
)
def test_what_differs_is_named(said: dict[str, Any], names: str) -> None:
    targets = [ScoredTarget("a@v1", [evaluation(1)]), ScoredTarget("a@v2", [evaluation(2, **said)])]
    with pytest.raises(
        Conflict, match=rf"since they differ in {names}; score them in one job: adapterctl eval a@v1 a@v2 "
    ) as caught:
        scored_alike(targets, data=None, metric="loss")
    assert ("--precision native" in caught.value.message) == ("precision" in names)


def test_the_advice_asks_for_what_they_were_scored_by() -> None:
    defined = {"words": "2", "regex": "a b", "scorer.mine": "dist 1"}
    metrics = {"loss": 1.0, "rouge_l": 0.5, "regex": 0.5, "scorer.mine.key": 1.0}
    conditions = {"tokenizer": "c" * 64, "max_length": 64, "columns": "prompt=q", "metrics": defined}
    one = evaluation(1, metrics=metrics, conditions=conditions)
    other = evaluation(2, metrics=metrics, conditions={**conditions, "metrics": {**defined, "scorer.mine": "dist 2"}})
    with pytest.raises(Conflict, match="since they differ in metrics") as caught:
        scored_alike([ScoredTarget("a@v1", [one]), ScoredTarget("a@v2", [other])], data=None, metric="scorer.mine.key")
    assert caught.value.message.endswith(" --columns prompt=q --regex 'a b' --scorers mine")
    chosen = {"metrics": {"loss": 1.0, "bleu": 0.5}}
    with pytest.raises(Conflict, match=r"--metrics bleu$"):
        scored_alike(
            [
                ScoredTarget("a@v1", [evaluation(1, **chosen)]),
                ScoredTarget("a@v2", [evaluation(2, **chosen, grader="x")]),
            ],
            data=None,
            metric="loss",
        )


def test_losses_of_other_tokens_are_not_compared_and_generated_texts_are() -> None:
    metrics = {"loss": 1.0, "bits_per_byte": 0.5, "rouge_l": 0.5}
    one = evaluation(1, metrics=metrics)
    other = evaluation(2, metrics=metrics, conditions={"tokenizer": "e" * 64, "max_length": 512})
    targets = [ScoredTarget("base:b", [one]), ScoredTarget("a@v1", [other])]
    for metric in ("rouge_l", "bits_per_byte"):
        assert scored_alike(targets, data=None, metric=metric) == [one, other]
    for metric in ("loss", "perplexity"):
        with pytest.raises(Conflict, match=r"losses per token can't be compared .* --metric rouge_l"):
            scored_alike(targets, data=None, metric=metric)


def test_what_a_record_has_is_compared_by_it() -> None:
    rouge = {"metrics": {"loss": 1.0, "rouge_l": 0.5}}
    earlier = [evaluation(place, **rouge) for place in (1, 2)]
    later = evaluation(3, rows_digest=None, **rouge), evaluation(4, metrics={"loss": 1.0})
    targets = [ScoredTarget("a@v1", [earlier[0], later[0]]), ScoredTarget("a@v2", [earlier[1], later[1]])]
    assert scored_alike(targets, data=None, metric="rouge_l") == earlier
    assert scored_alike(targets, data=None, metric="loss") == [earlier[0], later[1]]


def test_by_what_was_generated_the_scores_of_most_rows_are_compared() -> None:
    def of(ident: int, rows: int) -> EvaluationView:
        conditions = {"tokenizer": "c" * 64, "max_length": 512, "generated_rows": rows}
        return evaluation(ident, conditions=conditions, metrics={"loss": 1.0, "rouge_l": 0.5})

    def mine(ident: int, rows: int) -> EvaluationView:
        return of(ident, rows).model_copy(update={"metrics": {"scorer.mine": 0.5}})

    most = [mine(1, 200), mine(2, 200)]
    targets = [ScoredTarget("a@v1", [most[0], mine(3, 16)]), ScoredTarget("a@v2", [most[1], mine(4, 16)])]
    assert scored_alike(targets, data=None, metric="scorer.mine") == most
    many, few = [of(1, 200), of(2, 200)], [of(3, 16), of(4, 16)]
    targets = [ScoredTarget("a@v1", [many[0], few[0], of(5, 900)]), ScoredTarget("a@v2", [many[1], few[1]])]
    assert scored_alike(targets, data=None, metric="rouge_l") == many
    assert scored_alike(targets, data=None, metric="loss") == few


def test_a_metric_that_failed_on_rows_keeps_no_score_from_being_compared() -> None:
    conditions = {"tokenizer": "c" * 64, "max_length": 512}
    one = evaluation(1, conditions={**conditions, "failed": {"scorer.mine": "e" * 64}})
    other = evaluation(2, conditions={**conditions, "failed": {"regex": "f" * 64}})
    third = evaluation(3, conditions=conditions)
    targets = [ScoredTarget("a@v1", [one]), ScoredTarget("a@v2", [other]), ScoredTarget("a@v3", [third])]
    assert scored_alike(targets, data=None, metric="loss") == [one, other, third]
    assert one.unlike(other) == []
    assert one.has_rows_of(other, "loss")
    assert not one.has_rows_of(third, "scorer.mine")
    failed = evaluation(4, conditions={**conditions, "failed": {"loss": "e" * 64}})
    assert not failed.has_rows_of(third, "perplexity")


def test_the_target_that_lacks_the_metric_is_named() -> None:
    has = {"metrics": {"loss": 1.0, "rouge_1": 0.5}}
    unlike = {"conditions": {"tokenizer": "c" * 64, "max_length": 64}}
    targets = [ScoredTarget("a@v1", [evaluation(1, **has), evaluation(3)]), ScoredTarget("a@v2", [evaluation(2)])]
    with pytest.raises(Invalid, match=r"no scores of a@v2 on these rows have rouge_1, .* --metrics rouge_1$"):
        scored_alike(targets, data=None, metric="rouge_1")
    targets[1] = ScoredTarget("a@v2", [evaluation(2), evaluation(1, **has, **unlike)])
    with pytest.raises(Conflict, match="since they differ in max_length"):
        scored_alike(targets, data=None, metric="rouge_1")
