"""Answers to held-out prompts that an adapter writes while it is trained."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from sdk.schemas.looks import MOST_SAMPLE_CHARACTERS, SampleText
from workers.pipelines.data.tokenizer import configured_stops
from workers.pipelines.training.inputs import Inputs

#: The most tokens of an answer.
_TOKENS = 64


def sample_texts(given: Inputs, model: Any) -> list[SampleText]:
    """Return what a model answers greedily to the prompts that each look answers, one at a time: they are few."""
    stops = sorted({*configured_stops(given.order.base), given.tokenizer.eos_token_id} - {None})
    return [SampleText(row=row, text=_answer(given, model, ids, stops)) for row, ids in given.prompts.items()]


def _answer(given: Inputs, model: Any, prompt: list[int], stops: list[int]) -> str:
    ids = torch.tensor([prompt], device=given.device.torch_device)
    with torch.no_grad(), warnings.catch_warnings():
        # Some bases store sampling settings; greedy decoding doesn't use them, but warns about them.
        warnings.simplefilter("ignore", UserWarning)
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=1,
            max_new_tokens=_TOKENS,
            use_cache=True,
            pad_token_id=given.tokenizer.pad_token_id,
            eos_token_id=stops or None,
        )
    text: str = given.tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)
    return text[:MOST_SAMPLE_CHARACTERS]
