"""What is kept for a backward pass is kept in 16 bits, and once, where it is of 16 bits: gradients are the same bit for bit."""

from __future__ import annotations

import gc
from typing import Any

import peft
import pytest
import torch
import transformers
from support.architectures import config_of

from workers.pipelines.cpu import saved_tensors
from workers.pipelines.cpu.saved_tensors import narrow_saved

pytestmark = pytest.mark.filterwarnings("ignore")


def model_of(name: str, dtype: Any) -> Any:
    torch.manual_seed(1)
    base = transformers.AutoModelForCausalLM.from_config(config_of(name), dtype=dtype)
    lora = peft.LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, lora).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def gradients(model: Any, kept_in: Any) -> dict[str, Any]:
    ids = torch.arange(512).view(16, 32) % 90
    with narrow_saved(kept_in):
        loss = model(input_ids=ids, use_cache=False).logits.float().logsumexp(dim=-1).mean()
    loss.backward()
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "qwen3-moe"])
def test_gradients_are_the_same_bit_for_bit(name: str) -> None:
    model = model_of(name, torch.bfloat16)
    plain, narrow = gradients(model, torch.float32), gradients(model, torch.bfloat16)
    assert all(torch.equal(narrow[each], gradient) for each, gradient in plain.items())
    assert any(bool(gradient.any()) for gradient in plain.values())


def test_inputs_and_norms_are_kept_in_half_the_bytes_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made = model_of("llama", torch.bfloat16), list[Any]()

    class Listening(saved_tensors._Narrow):
        def __init__(self, tensor: Any) -> None:
            super().__init__(tensor)
            made.append(tensor.shape[-1])

    monkeypatch.setattr(saved_tensors, "_Narrow", Listening)
    gradients(model, torch.bfloat16)
    config = model.config
    # Of a layer: what both norms are given, and the inputs of q, k and v, of o, and of gate and up; and the last norm, but not the first.
    assert made.count(config.hidden_size) == 5 * config.num_hidden_layers
    assert made.count(config.intermediate_size) == config.num_hidden_layers


def test_nothing_outlives_the_backward_pass() -> None:
    model = model_of("llama", torch.bfloat16)
    gradients(model, torch.bfloat16)
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, saved_tensors._Narrow)]


def test_what_has_more_bits_and_what_is_trained_stay_as_they_are() -> None:
    weight = torch.ones(64, 64, requires_grad=True)
    exact = torch.full((64, 64), 1 / 3)
    with narrow_saved(torch.bfloat16):
        (weight * exact).sum().backward()
    assert torch.equal(weight.grad, exact)
    model = model_of("llama", torch.float32)
    plain, narrow = gradients(model, torch.float32), gradients(model, torch.bfloat16)
    assert all(torch.equal(narrow[each], gradient) for each, gradient in plain.items())


def test_a_part_that_begins_between_two_times_eight_bytes_is_kept() -> None:
    weight = torch.ones(8192, requires_grad=True)
    part = torch.arange(8193.0).bfloat16().float()[1:]
    with narrow_saved(torch.bfloat16):
        (weight * part + (weight * 2) * part).sum().backward()
    assert torch.equal(weight.grad, 3 * part)
