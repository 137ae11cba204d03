"""Trees of modules over the same weights: what one of them changes stays its own, or is seen."""

from __future__ import annotations

import pytest
import torch

from workers.serving.decoding.trees import Untouched, own_bytes, tree_of


class _Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(4, 3)
        self.inner = torch.nn.Linear(3, 3)
        self.head = torch.nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("seen", torch.zeros(1))


@pytest.fixture
def model() -> _Tied:
    """A small model whose head is its embedding."""
    return _Tied().requires_grad_(False)


def test_a_tree_has_the_memory_of_its_model(model: _Tied) -> None:
    tree = tree_of(model)
    assert [each.data_ptr() for each in tree.parameters()] == [each.data_ptr() for each in model.parameters()]
    assert tree.head.weight is tree.embed.weight
    tree.seen += 1
    assert not model.seen


def test_what_a_tree_owns_is_copied_under_each_of_its_names(model: _Tied) -> None:
    before = model.embed.weight.clone()
    tree = tree_of(model, lambda name: name == "head.weight")
    tree.embed.weight += 1
    assert torch.equal(model.embed.weight, before)
    assert torch.equal(model.head.weight, before)
    assert torch.equal(tree.head.weight, before + 1)
    assert tree.inner.weight.data_ptr() == model.inner.weight.data_ptr()
    assert own_bytes(model, lambda name: name.startswith("inner")) == 4 * (9 + 3)


def test_a_parameter_that_a_tree_lets_point_elsewhere_leaves_the_model_s_alone(model: _Tied) -> None:
    before = model.embed.weight.clone()
    tree = tree_of(model)
    untouched = Untouched(model, tree)
    tree.embed.weight.data = torch.zeros(9, 3)
    tree.embed.weight.fill_(1)
    assert untouched.holds()
    assert torch.equal(model.embed.weight, before)


def test_a_weight_that_a_tree_wrote_to_is_seen(model: _Tied) -> None:
    tree = tree_of(model, lambda name: name == "inner.bias")
    untouched = Untouched(model, tree)
    tree.inner.bias += 1
    assert untouched.holds()
    tree.inner.weight[0, 0] = 5
    assert not untouched.holds()
