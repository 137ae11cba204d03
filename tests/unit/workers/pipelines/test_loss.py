"""The loss of a batch is that of each supervised token after the ones before it, whatever the model leaves out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.pipelines.data.batches import collate, loss_sum, supervised_tokens
from workers.pipelines.data.tokenise import IGNORED
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
