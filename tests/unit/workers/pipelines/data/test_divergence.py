"""KL of two models' logits, as its definition has it in float64, and logits that are held on the disk meanwhile."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
import torch

from workers.pipelines.data.divergence import HeldLogits, divergence, kl_sum

VOCABULARY = 5_000


def by_definition(bare: Any, adapted: Any) -> tuple[Any, Any]:
    p, q = bare.double().log_softmax(-1), adapted.double().log_softmax(-1)[..., : bare.shape[-1]]
    return (p.exp() * (p - q)).sum(-1), adapted.double().logsumexp(-1) - bare.double().logsumexp(-1)


def logits(rows: int = 90, *, spread: float = 4.0) -> Any:
    torch.manual_seed(0)
    return spread * torch.randn(rows, VOCABULARY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("moved", [1e-4, 0.01, 0.3, 3.0])
@pytest.mark.parametrize("shift", [0.0, 7.0])
def test_it_is_what_the_definition_gives(moved: float, shift: float, dtype: Any) -> None:
    bare = logits().to(dtype)
    adapted = bare.float() + shift + moved * torch.randn(bare.shape)
    found, (kl, normaliser) = divergence(bare, adapted), by_definition(bare, adapted)
    assert float(found.kl.sum()) == pytest.approx(float(kl.sum()), rel=1e-6)
    assert torch.allclose(found.normaliser, normaliser, rtol=1e-6, atol=1e-6)
    assert found.kl.shape == found.normaliser.shape == (90,)
    assert kl_sum(bare, adapted) == float(found.kl.sum()) > 0


def test_of_equal_logits_nothing_is_left() -> None:
    found = divergence(logits(), logits())
    assert not found.kl.any()
    assert not found.normaliser.any()
    # That all logits rise changes no prediction.
    assert abs(kl_sum(logits(), logits() + 8)) < 1e-10


def test_what_had_no_probability_may_have_all_of_it() -> None:
    bare = torch.zeros(3, 10)
    bare[:, 0] = 200.0
    adapted = torch.zeros(3, 10)
    adapted[:, 1] = 900.0
    found, (kl, normaliser) = divergence(bare, adapted), by_definition(bare, adapted)
    assert found.kl.tolist() == kl.tolist() == pytest.approx([900.0] * 3)
    assert found.normaliser.tolist() == normaliser.tolist() == [700.0] * 3


def test_tokens_that_only_the_adapted_model_has_take_from_the_others() -> None:
    # Half of the probability goes to a token that the base has not: log 2.
    found = divergence(torch.zeros(3, 2), torch.tensor([[0.0, 0.0, math.log(2)]] * 3))
    assert found.kl.tolist() == pytest.approx([math.log(2)] * 3)
    assert found.normaliser.tolist() == pytest.approx([math.log(2)] * 3)


def test_tokens_that_only_the_bare_model_has_are_left_out() -> None:
    # The token that is gone had half of the probability; of the others nothing changed.
    found = divergence(torch.tensor([[0.0, 0.0, math.log(2)]] * 3), torch.zeros(3, 2))
    assert found.kl.tolist() == pytest.approx([0.0] * 3, abs=1e-12)
    assert found.normaliser.tolist() == pytest.approx([-math.log(2)] * 3)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_what_is_no_number_stays_none(odd: float) -> None:
    adapted = torch.zeros(3, 4)
    adapted[1, 2] = odd
    assert not math.isfinite(kl_sum(torch.zeros(3, 4), adapted))


def test_more_axes_and_none() -> None:
    bare, adapted = logits(6).reshape(2, 3, -1), logits(6).flip(0).reshape(2, 3, -1)
    kl, _ = by_definition(bare, adapted)
    assert torch.allclose(divergence(bare, adapted).kl, kl, rtol=1e-6)
    assert kl_sum(torch.zeros(0, 4), torch.zeros(0, 4)) == 0.0


def test_logits_are_held_with_all_their_digits_and_not_in_memory() -> None:
    held, wide, narrow = HeldLogits(), logits(3), logits(2).bfloat16().float()
    for batch in (wide, narrow, logits(0), logits(1).half().float()):
        held.append(batch)
    for _ in range(2):
        read = [held.read(number) for number in range(4)]
        assert [batch.dtype for batch in read] == [torch.float32, torch.bfloat16, torch.bfloat16, torch.float16]
        assert torch.equal(read[0], wide)
        assert torch.equal(read[1].float(), narrow)
        assert [len(batch) for batch in read] == [3, 2, 0, 1]
    del read
    kept = [each for each in gc.get_referents(vars(held)) if isinstance(each, torch.Tensor)]
    assert kept == []
    assert not any(isinstance(part, torch.Tensor) for batch in vars(held)["_batches"] for part in batch)
    file = vars(held)["_file"]
    del held, kept
    gc.collect()
    assert file.closed
