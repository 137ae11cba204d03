"""Whether an engine serves a version: what it answers, held against the version's record.

No engine refuses an adapter of another base, and some say "loaded" and answer as the base does. So an engine scores the tokens
of the record, under the base and under the version's name, and both must be as far from the record as rounding alone explains.
How far that is, the engine's own base tells: its distance from the record is the noise of that engine's arithmetic, of whatever
precision. The version's distance may be twice that, and must be at most half of its distance from the base's record.

An engine in float32 gives a record's numbers to five digits. There the first tokens that a version writes decide, because so much less is
allowed: a tenth, at most, of the least that is allowed otherwise. Whatever isn't that exact is scored whole before anything is said of it.

Seen over nine adapters of SmolLM2-135M (`benchmarks/once/served_probe.py`): the noise is 0.0000003 nats in float32, 0.0015 in llama.cpp, 0.04 in
bfloat16; the version's is 0.7 to 1.4 times the base's where rounding matters; another training on the same rows is at least 3.5 times
it in bfloat16.

>>> tokens = dict(tokens=[3, 4], base=[-1.0, -2.0], adapter=[-0.2, -0.1])
>>> record = ServedProbe(
...     prompts_digest="0" * 64, prompts=[ServedPrompt(tokens=[1], by_base=Continuation(**tokens), by_adapter=Continuation(**tokens))]
... )
>>> right, bare = [[-0.2001, -0.1]] * 2, [[-1.0, -2.0001]] * 2
>>> judge(record, Scores(base=bare, adapter=right)).outcome, judge(record, Scores(base=bare, adapter=bare)).outcome
('passed', 'failed')
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sdk.gateway.engines.engine import InferenceEngine
from sdk.schemas.serving import Continuation, DtypeName, ProbeVerdict, ServedProbe, ServedPrompt

#: How many times as far as the base a version may be from its record.
_TIMES = 2.0
#: At most this share of the distance to the other's record may be the distance to the own one.
_NEARER = 0.5
#: The least noise that is assumed, in nats, and as a share of the adapter's effect: engines round the adapter's matrices, which
#: the base's answers don't show.
_LEAST_NOISE, _LEAST_SHARE = 1e-3, 1 / 64
#: The largest noise that a precision explains, in nats; beyond it the base is another one. Each is about three times what was seen.
_MOST_NOISE: dict[DtypeName | None, float] = {"float32": 0.01, "float16": 0.03, "bfloat16": 0.125, None: 0.125}
#: The same where the base was quantised in training, and the engine's perhaps is not: twice what was seen over a small base.
_MOST_QUANTIZED = 1.5
#: The largest log-probability, without its sign, that is a number.
_LARGEST = 1e6
#: Answers are exact if the logits behind them are within this, in nats: a twentieth of that was seen in float32, by PEFT and by vLLM. A
#: token that is certain shows nothing of its logit: its log-probability moves by 1 - p of what the logit does.
_EXACT = 2e-4
#: So much of 1 - p is the least by which a prompt's tokens show exactness, and so many times nearer to its own record than to the base's
#: an exact version is.
_LEAST_DOUBT, _TIMES_NEARER = 0.1, 100.0
#: How many tokens decide where answers are exact.
_FEW = 4
#: How many of a base's scores are held.
_MOST_HELD = 512


@dataclass(frozen=True)
class Scores:
    """What an engine says about the tokens of a record, in nats: a list for each continuation, in the order of the record's prompts,
    the base's before the adapter's.
    """

    base: Sequence[Sequence[float]]
    adapter: Sequence[Sequence[float]]


class BaseScores:
    """What one process of an engine has said about tokens under its base: that never changes, so it is asked once."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[tuple[int, ...], tuple[int, ...]], list[float]] = OrderedDict()

    async def of(self, engine: InferenceEngine, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """Return it, asking the engine if need be."""
        key = (tuple(prompt), tuple(continuation))
        found = self._held.get(key)
        if found is None:
            found = await engine.score(None, prompt, continuation)
            self._held[key] = found
            while len(self._held) > _MOST_HELD:
                self._held.popitem(last=False)
        return found


async def prove(
    engine: InferenceEngine, name: str, record: ServedProbe, *, held: BaseScores, dtype: DtypeName | None = None
) -> ProbeVerdict:
    """Let an engine score a record's tokens under the base and under a loaded version, and judge that.

    Exact answers are seen by a few tokens. Otherwise prompts on which the adapter does most come first, and once the version passes on
    one nothing more is scored. `dtype` is what the engine computes in, where that is known. Raises what `InferenceEngine.score` raises.
    """
    exact = await _exact(engine, name, record, held)
    if exact is not None:
        return exact
    ordered = sorted(record.prompts, key=_effect_on, reverse=True)
    base, adapter = list[list[float]](), list[list[float]]()
    for count, prompt in enumerate(ordered, start=1):
        # Side by side: an engine that batches reads them in one pass.
        found = await asyncio.gather(
            *(held.of(engine, prompt.tokens, each.tokens) for each in prompt.continuations),
            *(engine.score(name, prompt.tokens, each.tokens) for each in prompt.continuations),
        )
        base += found[:2]
        adapter += found[2:]
        scores = Scores(base=base, adapter=adapter)
        verdict = judge(record.model_copy(update={"prompts": ordered[:count]}), scores, dtype=dtype)
        if verdict.outcome == "passed":
            return verdict
    return verdict


async def _exact(engine: InferenceEngine, name: str, record: ServedProbe, held: BaseScores) -> ProbeVerdict | None:
    """Return that a version passed if base and version each write what they are recorded to write, exactly; None: that isn't seen."""
    # The first such prompt is mostly the same one for all versions, so that the base is asked once.
    prompt = next((each for each in record.prompts if _shows_exactness(each)), None)
    if prompt is None:
        return None
    tokens, was_base, was_adapter = _first(prompt.by_adapter)
    by_base, found = await asyncio.gather(
        held.of(engine, prompt.tokens, prompt.by_base.tokens), engine.score(name, prompt.tokens, tokens)
    )
    base = _distance(by_base, prompt.by_base.base)
    if base > _EXACT * _doubt(prompt.by_base.base):
        return None
    adapter, allowed = _distance(found, was_adapter), _EXACT * _doubt(was_adapter)
    if adapter > allowed or _TIMES_NEARER * adapter > _distance(found, was_base):
        return None
    return ProbeVerdict(
        outcome="passed",
        message=f"the first {len(tokens)} tokens are as recorded, within {allowed:.3g} nats",
        effect=_rms(was_base, was_adapter),
        base=base,
        adapter=adapter,
        allowed=allowed,
        tokens=len(tokens),
    )


def _shows_exactness(prompt: ServedPrompt) -> bool:
    """Whether log-probabilities after a prompt would differ if anything else did, and the adapter does much there."""
    tokens, base, adapter = _first(prompt.by_adapter)
    return (
        min(len(tokens), len(prompt.by_base.tokens)) >= _FEW
        and min(_doubt(prompt.by_base.base), _doubt(adapter)) >= _LEAST_DOUBT
        and _rms(base, adapter) >= _TIMES_NEARER * _EXACT
    )


def _first(row: Continuation) -> tuple[list[int], list[float], list[float]]:
    return row.tokens[:_FEW], row.base[:_FEW], row.adapter[:_FEW]


def _doubt(scores: Sequence[float]) -> float:
    """Return the root mean square of 1 - p."""
    return _rms([-math.expm1(each) for each in scores], [0.0] * len(scores))


def _distance(found: Sequence[float], was: Sequence[float]) -> float:
    """Return how far scores are from a record's; infinity if they aren't numbers, one for each token."""
    if len(found) != len(was) or not all(abs(each) <= _LARGEST for each in found):
        return math.inf
    return _rms(found, was)


def judge(record: ServedProbe, scores: Scores, *, dtype: DtypeName | None = None) -> ProbeVerdict:
    """Say whether these scores are a version's, by its record; `dtype` is what the engine computes in, where that is known.

    "undecidable": the adapter's effect is too weak beside the rounding of this engine.
    """
    rows = [each for prompt in record.prompts for each in prompt.continuations]
    was_base, was_adapter = _flat(each.base for each in rows), _flat(each.adapter for each in rows)
    effect, tokens = _rms(was_base, was_adapter), len(was_adapter)
    if not (_fits(rows, scores.base) and _fits(rows, scores.adapter)):
        return ProbeVerdict(
            outcome="failed",
            message="the engine doesn't give each token a log-probability that is a number; see its log",
            effect=effect,
            base=None,
            adapter=None,
            allowed=None,
            tokens=tokens,
        )
    now_base, now_adapter = _flat(scores.base), _flat(scores.adapter)
    base, adapter = _rms(now_base, was_base), _rms(now_adapter, was_adapter)
    allowed = _TIMES * max(base, _LEAST_NOISE, _LEAST_SHARE * effect)

    def verdict(outcome: str, message: str) -> ProbeVerdict:
        numbers = {"effect": effect, "base": base, "adapter": adapter, "allowed": allowed, "tokens": tokens}
        return ProbeVerdict.model_validate({"outcome": outcome, "message": message, **numbers})

    most = _most_noise(record, dtype)
    if base > most:
        return verdict(
            "failed",
            f"the engine's base is {base:.3g} nats per token from the record's, and {most:.3g} is the most that rounding explains:"
            " it is another base, or one in fewer bits; start the engine with the version's base",
        )
    if adapter > allowed:
        bare = _rms(now_adapter, now_base)
        as_base = bare <= _NEARER * effect and bare < adapter
        return verdict(
            "failed",
            f"under the version's name the engine answers {adapter:.3g} nats per token from the record, and {allowed:.3g} is allowed: "
            + (
                "it answers as the base does, so the adapter has no effect there"
                if as_base
                else "it is another adapter, or is applied otherwise"
            )
            + "; see whether the engine supports this kind: adapterctl compat",
        )
    if adapter <= _NEARER * _rms(now_adapter, was_base) and base <= _NEARER * _rms(now_base, was_adapter):
        return verdict("passed", f"{tokens} tokens are as recorded, within {allowed:.3g} nats")
    return verdict(
        "undecidable",
        f"the adapter moves the base by {effect:.3g} nats per token, too little to distinguish from this engine's rounding of {base:.3g};"
        " serve it in float32 to be sure",
    )


def is_other_base(record: ServedProbe, verdict: ProbeVerdict, dtype: DtypeName | None = None) -> bool:
    """Whether a verdict says that the engine's base itself isn't the record's."""
    return verdict.base is not None and verdict.base > _most_noise(record, dtype)


def _most_noise(record: ServedProbe, dtype: DtypeName | None) -> float:
    if record.quantized is not None:
        return _MOST_QUANTIZED
    # The record itself may have been computed in 16 bits.
    return max(_MOST_NOISE[dtype], 0.0 if record.dtype == "float32" else _MOST_NOISE[record.dtype])


def _effect_on(prompt: ServedPrompt) -> float:
    rows = prompt.continuations
    return _rms(_flat(each.base for each in rows), _flat(each.adapter for each in rows))


def _fits(rows: Sequence[Continuation], scores: Sequence[Sequence[float]]) -> bool:
    """Whether there is a number for each token; NaN and infinities are none."""
    return len(rows) == len(scores) and all(
        len(row.tokens) == len(found) and all(abs(each) <= _LARGEST for each in found)
        for row, found in zip(rows, scores, strict=True)
    )


def _flat(lists: Iterable[Sequence[float]]) -> list[float]:
    return [number for each in lists for number in each]


def _rms(some: Sequence[float], others: Sequence[float]) -> float:
    """Return the root mean square of differences, without overflow."""
    return math.dist(some, others) / math.sqrt(len(some))
