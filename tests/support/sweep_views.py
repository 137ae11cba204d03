"""A sweep as the registry shows it, of settings that a test names, with numbers that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.sweep_axes import Setting, Values
from sdk.schemas.sweeps import Publish, SettingVerdict, SweepMember, SweepRequest, SweepState, SweepVerdict, SweepView

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def sweep_view(
    settings: Sequence[Setting],
    scores: Sequence[float],
    *,
    seeds: int = 1,
    error: float = 0.01,
    publish: Publish = "none",
    **known: Any,
) -> SweepView:
    """Return a sweep that has ended, whose members have a score for each setting; the least is the best."""
    axes = {name: Values(values=list(dict.fromkeys(one[name] for one in settings))) for name in settings[0]}
    training = TrainingRequest(adapter="sql", base=BaseChoice(id="tiny"), data="0" * 64, eval_data="1" * 64)
    members = [
        _member(number, trial, setting, score + 0.004 * seed, seed)
        for trial, (setting, score) in enumerate(zip(settings, scores, strict=True), start=1)
        for seed in range(seeds)
        for number in [(trial - 1) * seeds + seed + 1]
    ]
    best = min(range(len(scores)), key=scores.__getitem__)
    judged = [
        SettingVerdict(
            trial=at + 1,
            setting=setting,
            members=[member.number for member in members if member.trial == at + 1],
            score=scores[at],
            standard_error=error,
            **_against(scores[at] - scores[best], error) if at != best else {"outcome": "best"},
        )
        for at, setting in sorted(enumerate(settings), key=lambda one: scores[one[0]])
    ]
    verdict = SweepVerdict(
        metric="eval_loss",
        lower_is_better=True,
        margin=0.01,
        rows=40,
        seeds=seeds,
        settings=judged,
        told_apart=all(one.outcome in ("best", "worse") for one in judged),
        recommendation="Take the best of them.",
    )
    plain: dict[str, Any] = {
        "id": "5ea9b7d20c11",
        "adapter": "sql",
        "state": SweepState.ENDED,
        "request": SweepRequest(training=training, settings=axes, seeds=seeds, publish=publish),
        "created_by": "ann",
        "created_at": NOW,
        "finished_at": NOW,
        "most_members": len(members),
        "members": members,
        "counts": {"succeeded": len(members)},
        "train_s": 60.0 * len(members),
        "winner": best * seeds + 1,
        "verdict": verdict,
    }
    return SweepView(**{**plain, **known})


def _against(difference: float, error: float) -> dict[str, Any]:
    low, high = difference - 3 * error, difference + 3 * error
    outcome = "worse" if low > 0 else "not told apart"
    return {"difference": difference, "low": low, "high": high, "p": 0.01, "can_show": 0.04, "outcome": outcome}


def _member(number: int, trial: int, setting: Setting, score: float, seed: int) -> SweepMember:
    rank = setting.get("rank", 8)
    assert isinstance(rank, int)
    return SweepMember(
        number=number,
        trial=trial,
        setting=setting,
        seed=seed,
        job=f"{number:012x}",
        state="succeeded",
        outcome="finished",
        metrics={
            "eval_loss": score,
            "rouge_l": 1 / (1 + score),
            "train_s": 55.0 + rank,
            "peak_memory_bytes": 1e9 + rank * 1e7,
            "adapter_size_bytes": 1e5 * rank,
        },
        steps=200,
        best_step=150 + rank,
    )
