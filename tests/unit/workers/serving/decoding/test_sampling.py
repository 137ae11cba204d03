"""How tokens are drawn: by the probabilities that transformers' own filters leave, with a question's own random numbers."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from workers.serving.decoding.sampling import Chooser, NotANumber, scored

LOGITS = torch.tensor([1.0, 3.0, -2.0, 2.5, 0.0, 2.0])


def _probabilities(temperature: float, top_p: float) -> list[float]:
    """What transformers draws by."""
    left = TemperatureLogitsWarper(temperature)(None, LOGITS[None])
    if top_p < 1:
        left = TopPLogitsWarper(top_p)(None, left)
    return left.softmax(-1)[0].tolist()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.8), (1.0, 0.5), (1.0, 0.01)])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature: float, top_p: float) -> None:
    chooser, draws = Chooser(temperature=temperature, top_p=top_p, seed=1), 4000
    counts = [0] * len(LOGITS)
    for _ in range(draws):
        counts[chooser.choose(LOGITS)] += 1
    for count, probability in zip(counts, _probabilities(temperature, top_p), strict=True):
        # Five standard deviations; a token that is left out is never drawn.
        assert abs(count - draws * probability) <= 5 * math.sqrt(draws * probability * (1 - probability))


def test_greedy_takes_the_likeliest_and_a_small_temperature_as_well() -> None:
    assert Chooser(temperature=0).choose(LOGITS) == 1
    assert {Chooser(temperature=1e-6, seed=seed).choose(LOGITS * 1e30) for seed in range(20)} == {1}


def test_equal_seeds_draw_equal_tokens() -> None:
    def drawn(seed: int) -> list[int]:
        chooser = Chooser(temperature=1.5, top_p=0.95, seed=seed)
        return [chooser.choose(LOGITS) for _ in range(50)]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)
    # Any whole number is a seed.
    assert drawn(-1) == drawn(-1)
    assert len(drawn(2**80)) == 50


@pytest.mark.parametrize("odd", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_numbers_that_are_not_finite_choose_nothing(odd: float, temperature: float) -> None:
    with pytest.raises(NotANumber):
        Chooser(temperature=temperature, seed=0).choose(torch.tensor([0.0, odd, 1.0]))


def test_a_token_that_is_impossible_is_never_drawn() -> None:
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 0.0])
    chooser = Chooser(temperature=1.0, seed=3)
    assert {chooser.choose(logits) for _ in range(100)} == {1, 3}


def test_log_probabilities_are_those_before_temperature() -> None:
    truth = LOGITS.log_softmax(-1).tolist()
    token, other = scored(torch.stack([LOGITS, LOGITS]), [3, 1], 2)
    assert token.logprob == pytest.approx(truth[3])
    assert [each for each, _ in other.top] == [1, 3]
    assert [value for _, value in other.top] == pytest.approx([truth[1], truth[3]])
