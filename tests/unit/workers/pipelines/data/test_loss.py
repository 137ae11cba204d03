"""The loss of a batch is that of each supervised token after the ones before it, whatever the model leaves out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.pipelines.data.batches import collate, example_losses, loss_sum, supervised_tokens
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base

ROWS = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [IGNORED, IGNORED, 7, 8, 9]},
    {"input_ids": [9, 8, 7], "labels": [IGNORED, IGNORED, 7]},
]


class AllLogits(torch.nn.Module):
    """A model that can't be asked for the logits of some positions alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = model.config

    def forward(self, input_ids: Any, use_cache: bool) -> Any:
        return self.model(input_ids=input_ids, use_cache=use_cache)


@pytest.mark.parametrize("wrap", [lambda model: model, AllLogits], ids=["some logits", "all logits"])
@pytest.mark.parametrize("base", ["llama_base", "gpt2_base"])
def test_the_loss_is_that_of_each_supervised_token(base: str, wrap: Any, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(base)
    device = choose_device()
    model = load_base(folder, device, quantization=None).model.eval()
    batch = {name: tensor.to(device.torch_device) for name, tensor in collate(ROWS, 0).items()}
    expected = 0.0
    with torch.no_grad():
        for row in ROWS:
            logits = model(torch.tensor([row["input_ids"]], device=device.torch_device)).logits[0].double()
            for place, token in enumerate(row["labels"]):
                if token != IGNORED:
                    expected -= float(logits[place - 1].log_softmax(-1)[token])
        found = float(loss_sum(wrap(model), batch))
    assert supervised_tokens(batch) == 4
    assert math.isclose(found, expected, rel_tol=1e-4), (found, expected)


@pytest.mark.parametrize("wrap", [lambda model: model, AllLogits], ids=["some logits", "all logits"])
def test_an_evaluation_reads_no_token_by_which_nothing_is_predicted(llama_base: Path, wrap: Any) -> None:
    device = choose_device()
    model = load_base(llama_base, device, quantization=None).model.eval()
    rows = [*ROWS, {"input_ids": [5], "labels": [IGNORED]}]
    examples = [Example(row["input_ids"], row["labels"], [], "", "") for row in rows]
    read: list[int] = []
    with model.get_input_embeddings().register_forward_hook(
        lambda module, given, found: read.append(given[0].shape[1])
    ):
        found = [loss for part in example_losses(wrap(model), examples, 0, 1, device.torch_device) for _, loss in part]
    assert read == [4, 2, 1]
    with torch.no_grad():
        whole = [float(loss_sum(model, collate([row], 0))) for row in ROWS]
    assert found == pytest.approx([*whole, 0.0], rel=1e-5)
