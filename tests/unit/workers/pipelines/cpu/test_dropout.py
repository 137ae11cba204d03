from __future__ import annotations

import pytest
import torch

from workers.pipelines.cpu.dropout import SixteenBitDropout


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_the_share_dropped_and_the_expectation_are_those_of_dropout(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1001)
    y = SixteenBitDropout(p).train()(x)
    assert float((y == 0).float().mean()) == pytest.approx(p, abs=0.002)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.01)
    assert y.unique().numel() == 2
    # Neighbours come out of one random word and must not depend on each other.
    dropped = (y.flatten() == 0).float()
    for distance in (1, 2, 3, 4):
        both = float((dropped[:-distance] * dropped[distance:]).mean())
        assert both == pytest.approx(p * p, abs=0.003)


def test_it_follows_the_seed_and_rests_in_evaluation() -> None:
    layer, x = SixteenBitDropout(0.3), torch.randn(3, 5, 7)
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert torch.equal(first, layer(x))
    assert not torch.equal(first, layer(x))
    assert layer.eval()(x) is x


def test_its_gradient_is_its_own_mask() -> None:
    x = torch.ones(4, 6, requires_grad=True)
    y = SixteenBitDropout(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
