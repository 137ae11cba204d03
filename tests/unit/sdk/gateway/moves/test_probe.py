"""Whether an engine serves a version, judged from log-probabilities alone: of the right version, of wrong ones, and of none."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence

import pytest

from sdk.gateway.moves.probe import BaseScores, Scores, judge, prove
from sdk.schemas.serving import Continuation, DtypeName, ProbeVerdict, ServedProbe, ServedPrompt

#: How far float32, llama.cpp and bfloat16 put an answer from the record, in nats, as measured over SmolLM2.
FLOAT32, LLAMA_CPP, BFLOAT16 = 1e-5, 0.0015, 0.037


def made(effect: float, *, seed: int = 1, quantized: str | None = None) -> ServedProbe:
    """A record whose adapter moves the base by so much, in nats per token."""
    draw = random.Random(seed)

    def continuation() -> Continuation:
        base = [-draw.expovariate(1.0) - 0.1 for _ in range(16)]
        adapter = [min(0.0, number + draw.choice((-1, 1)) * effect) for number in base]
        return Continuation(tokens=[draw.randrange(100) for _ in range(16)], base=base, adapter=adapter)

    prompts = [
        ServedPrompt(tokens=[draw.randrange(100) for _ in range(8)], by_base=continuation(), by_adapter=continuation())
        for _ in range(4)
    ]
    return ServedProbe(prompts_digest="0" * 64, prompts=prompts, quantized=quantized)


def shaken(lists: Sequence[Sequence[float]], noise: float, *, seed: int = 5) -> list[list[float]]:
    draw = random.Random(seed)
    return [[number + draw.gauss(0, noise) for number in each] for each in lists]


def rows(record: ServedProbe) -> list[Continuation]:
    return [each for prompt in record.prompts for each in prompt.continuations]


def scores(record: ServedProbe, noise: float, *, version: ServedProbe | None = None, share: float = 1.0) -> Scores:
    """What an engine with so much noise says: under the base, and under another version, or so much of the right one."""
    base = [each.base for each in rows(record)]
    if version is not None:
        answers = [each.adapter for each in rows(version)]
    else:
        answers = [
            [was + share * (now - was) for was, now in zip(each.base, each.adapter, strict=True)]
            for each in rows(record)
        ]
    return Scores(base=shaken(base, noise), adapter=shaken(answers, noise, seed=6))


@pytest.mark.parametrize(("noise", "dtype"), [(FLOAT32, "float32"), (BFLOAT16, "bfloat16"), (BFLOAT16, None)])
def test_right_version_passes(noise: float, dtype: DtypeName | None) -> None:
    record = made(0.7)
    found = judge(record, scores(record, noise), dtype=dtype)
    assert (found.outcome, found.tokens) == ("passed", 128)
    assert found.base == pytest.approx(noise, rel=0.3)


@pytest.mark.parametrize("noise", [FLOAT32, BFLOAT16])
def test_adapter_without_effect_fails_with_its_reason(noise: float) -> None:
    record = made(0.7)
    found = judge(record, scores(record, noise, share=0.0))
    assert found.outcome == "failed"
    assert "it answers as the base does, so the adapter has no effect there" in found.message


@pytest.mark.parametrize(("noise", "share"), [(FLOAT32, 0.95), (FLOAT32, 1.05), (BFLOAT16, 0.5), (BFLOAT16, 2.0)])
def test_adapter_at_another_scale_fails(noise: float, share: float) -> None:
    record = made(0.7)
    found = judge(record, scores(record, noise, share=share))
    assert found.outcome == "failed"


def test_another_version_fails() -> None:
    record = made(0.7)
    # As near to it as two trainings on the same rows came: 0.17 of the effect.
    near = record.model_copy(
        update={
            "prompts": [
                prompt.model_copy(
                    update={
                        "by_adapter": prompt.by_adapter.model_copy(
                            update={"adapter": [one - 0.24 for one in prompt.by_adapter.adapter]}
                        )
                    }
                )
                for prompt in record.prompts
            ]
        }
    )
    for noise in (FLOAT32, BFLOAT16):
        found = judge(record, scores(record, noise, version=near))
        assert found.outcome == "failed"
        assert "it is another adapter, or is applied otherwise" in found.message


@pytest.mark.parametrize(("effect", "away"), [(0.7, 0.3), (0.02, 0.3), (0.7, 0.2)])
def test_another_base_fails_whatever_the_adapter_does(effect: float, away: float) -> None:
    record = made(effect)
    found = judge(record, scores(record, away))
    assert found.outcome == "failed"
    assert "it is another base, or one in fewer bits" in found.message


def test_known_precision_tells_a_base_that_is_only_a_little_different() -> None:
    record = made(0.7)
    assert judge(record, scores(record, 0.05)).outcome == "passed"
    assert judge(record, scores(record, 0.05), dtype="float32").outcome == "failed"


def test_weak_adapter_is_undecidable_in_bfloat16_and_decided_in_float32() -> None:
    record = made(0.03)
    coarse = judge(record, scores(record, BFLOAT16), dtype="bfloat16")
    assert coarse.outcome == "undecidable"
    assert "too little to distinguish from this engine's rounding" in coarse.message
    assert judge(record, scores(record, FLOAT32), dtype="float32").outcome == "passed"
    assert judge(record, scores(record, FLOAT32, share=0.0), dtype="float32").outcome == "failed"


def test_strong_adapter_in_the_place_of_a_weak_one_fails_even_in_bfloat16() -> None:
    record = made(0.03)
    assert judge(record, scores(record, BFLOAT16, version=made(0.8, seed=2))).outcome == "failed"


def test_base_that_was_quantised_in_training_may_be_further_away() -> None:
    record = made(1.2, quantized="nf4")
    assert judge(record, scores(record, 0.3)).outcome == "passed"
    assert judge(record.model_copy(update={"quantized": None}), scores(record, 0.3)).outcome == "failed"
    # 4 bits of a small base leave nothing to tell, whatever is served.
    assert {judge(record, scores(record, 0.8, share=share)).outcome for share in (0.0, 1.0)} == {"undecidable"}
    assert judge(record, scores(record, 2.0)).outcome == "failed"


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 1e300])
def test_scores_that_are_no_numbers_fail(wrong: float) -> None:
    record = made(0.7)
    right = scores(record, FLOAT32)
    assert judge(record, Scores(right.base, [[wrong, *right.adapter[0][1:]], *right.adapter[1:]])).outcome == "failed"
    assert judge(record, Scores([[wrong, *right.base[0][1:]], *right.base[1:]], right.adapter)).outcome == "failed"
    assert judge(record, Scores(right.base, right.adapter[1:])).outcome == "failed"
    assert judge(record, Scores(right.base, [right.adapter[0][1:], *right.adapter[1:]])).outcome == "failed"


class InferenceEngine:
    """One that answers from lists, and counts what it was asked."""

    def __init__(self, record: ServedProbe, answers: Scores) -> None:
        self._of = {tuple(each.tokens[:4]): at for at, each in enumerate(rows(record))}
        self._answers, self.base, self.version = answers, 0, 0

    async def score(self, name: str | None, _prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        self.base, self.version = self.base + (name is None), self.version + (name is not None)
        answers = self._answers.base if name is None else self._answers.adapter
        return list(answers[self._of[tuple(continuation[:4])]][: len(continuation)])


def proved(
    record: ServedProbe, answers: Scores, *, held: BaseScores | None = None
) -> tuple[ProbeVerdict, InferenceEngine]:
    engine = InferenceEngine(record, answers)
    return asyncio.run(prove(engine, "a@v1", record, held=held or BaseScores())), engine  # type: ignore[arg-type]


def test_probe_stops_after_the_prompt_on_which_the_version_passes() -> None:
    record, held = made(0.7), BaseScores()
    asked = []
    for _ in range(2):
        found, engine = proved(record, scores(record, LLAMA_CPP), held=held)
        assert (found.outcome, found.tokens, engine.version) == ("passed", 32, 3)
        asked.append(engine.base)
    # Of another prompt than the first it is seen that the base isn't exact; its answers don't change.
    assert asked == [3, 0]


def test_exact_answers_are_seen_by_the_first_tokens_of_the_version_and_all_of_the_base() -> None:
    record = made(0.7)
    found, engine = proved(record, scores(record, FLOAT32))
    assert (found.outcome, found.tokens) == ("passed", 4)
    assert (engine.base, engine.version) == (1, 1)
    assert found.adapter is not None
    assert found.allowed is not None
    assert found.adapter <= found.allowed <= 2e-4


@pytest.mark.parametrize("share", [0.0, 0.9, 0.999, 1.001, 2.0])
def test_an_adapter_that_is_not_exactly_the_recorded_one_is_never_seen_by_few_tokens(share: float) -> None:
    record = made(0.7)
    found, engine = proved(record, scores(record, FLOAT32, share=share))
    assert found.tokens >= 32
    assert engine.version > 1
    assert (found.outcome == "passed") == (abs(share - 1) < 0.01)


def test_another_base_is_never_seen_by_few_tokens() -> None:
    record = made(0.7)
    right = scores(record, FLOAT32)
    found, _ = proved(record, Scores(shaken(right.base, 0.005), right.adapter))
    assert found.tokens >= 32
    assert proved(record, Scores(shaken(right.base, 0.3), right.adapter))[0].outcome == "failed"


def test_tokens_that_are_certain_show_nothing_so_that_all_are_scored() -> None:
    record = made(0.7)
    # Learnt by heart: another training on the same rows says the same of these tokens, and other things of the base's.
    sure = [
        prompt.model_copy(update={"by_adapter": prompt.by_adapter.model_copy(update={"adapter": [-1e-5] * 16})})
        for prompt in record.prompts
    ]
    record = record.model_copy(update={"prompts": sure})
    other = scores(record, 0.0)
    by_base = [[one - 0.3 for one in each] if at % 2 == 0 else each for at, each in enumerate(other.adapter)]
    assert proved(record, Scores(other.base, by_base))[0].outcome == "failed"
    assert proved(record, other)[0].tokens == 32


def test_a_record_of_fewer_tokens_is_scored_whole() -> None:
    def short(row: Continuation) -> Continuation:
        return Continuation(tokens=row.tokens[:3], base=row.base[:3], adapter=row.adapter[:3])

    record = made(0.7)
    prompts = [
        each.model_copy(update={"by_base": short(each.by_base), "by_adapter": short(each.by_adapter)})
        for each in record.prompts
    ]
    record = record.model_copy(update={"prompts": prompts})
    assert proved(record, scores(record, FLOAT32))[0].tokens == 6


@pytest.mark.parametrize("wrong", [math.nan, -math.inf])
def test_few_scores_that_are_no_numbers_fail(wrong: float) -> None:
    record = made(0.7)
    right = scores(record, FLOAT32)
    assert proved(record, Scores(right.base, [[wrong] * 16 for _ in right.adapter]))[0].outcome == "failed"
    assert proved(record, Scores([[wrong] * 16 for _ in right.base], right.adapter))[0].outcome == "failed"


def test_probe_scores_everything_before_it_fails() -> None:
    record = made(0.7)
    found, engine = proved(record, scores(record, LLAMA_CPP, share=0.0))
    assert (found.outcome, found.tokens, engine.version) == ("failed", 128, 9)


def test_probe_begins_with_the_prompt_on_which_the_adapter_does_most() -> None:
    weak, strong = made(0.001), made(0.9, seed=3)
    record = weak.model_copy(update={"prompts": [*weak.prompts[:3], strong.prompts[3]]})
    found, _ = proved(record, scores(record, LLAMA_CPP))
    assert found.outcome == "passed"
    assert found.effect > 0.5
