"""Losses of supervised tokens in chunks: what a model's own logits say, and the same gradients, whatever it does to logits."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
import transformers
from support.architectures import config_of

from sdk.schemas.training import TrainingSpec
from workers.pipelines.data import heads
from workers.pipelines.data.batches import collate, loss_sum, token_losses
from workers.pipelines.data.examples import IGNORED
from workers.pipelines.data.heads import OnePieceError, head_of
from workers.pipelines.data.preferences import collate as pair_up
from workers.pipelines.data.preferences import dpo

pytestmark = pytest.mark.filterwarnings("ignore")

EPS = torch.finfo(torch.float32).eps
ROWS = [
    {"input_ids": [5, 6, 7, 8, 9, 4, 3], "labels": [IGNORED, IGNORED, 7, 8, 9, 4, 3]},
    {"input_ids": [9, 8, 7, 11], "labels": [IGNORED, IGNORED, 7, 11]},
    {"input_ids": [20, 21, 22], "labels": [IGNORED, 21, IGNORED]},
    {"input_ids": [30, 31], "labels": [IGNORED, 31]},
]
#: What is done to logits, or before them, by families, to a degree that matters.
CHANGED = {
    "gemma2": {"final_logit_softcapping": 0.7},
    "gemma3": {"final_logit_softcapping": 0.7},
}
OTHERS = {
    "granite": ("GraniteConfig", {"logits_scaling": 3.0}),
    "cohere": ("CohereConfig", {"logit_scale": 0.3}),
}
FAMILIES = [
    "llama",
    "gpt2",
    "gemma2",
    "gemma3",
    "mixtral",
    "opt",
    "gpt-neox",
    "falcon",
    "bloom",
    "qwen3.5",
    "gemma3-vision",
    *OTHERS,
]


def model_of(name: str, **options: Any) -> Any:
    """A tiny model with random A and B beside its linear modules."""
    torch.manual_seed(1)
    if name in OTHERS:
        kind, more = OTHERS[name]
        llama = config_of("llama").to_dict()
        kept = {key: llama[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
        kept |= {key: llama[key] for key in ("num_attention_heads", "num_key_value_heads", "initializer_range")}
        config = getattr(transformers, kind)(**kept, **more, pad_token_id=1, bos_token_id=None, eos_token_id=0)
    else:
        config = config_of(name)
        for key, value in CHANGED.get(name, {}).items():
            setattr(config, key, value)
    several = name == "gemma3-vision"
    maker = transformers.AutoModelForImageTextToText if several else transformers.AutoModelForCausalLM
    base = maker.from_config(config, dtype=torch.float32)
    lora = peft.LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM", **options)
    return peft.get_peft_model(base, lora).eval()


def gradients(model: Any, loss: Any) -> dict[str, Any]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def require_same(model: Any, ours: Any, theirs: Any) -> None:
    assert abs(float(ours) - float(theirs)) < 1e-5 * abs(float(theirs))
    found, expected = gradients(model, ours), gradients(model, theirs)
    assert found.keys() == expected.keys()
    largest = max(float(each.abs().max()) for each in expected.values())
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-5, atol=1e-5 * largest), name


@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
@pytest.mark.parametrize("name", FAMILIES)
def test_losses_and_gradients_are_those_of_all_logits_at_once(name: str, chunk_tokens: int) -> None:
    model = model_of(name)
    batch = collate(ROWS, 1)
    head = head_of(model, batch, EPS)
    assert not head.trained
    require_same(model, loss_sum(model, batch, head.losses(chunk_tokens)), loss_sum(model, batch))


@pytest.mark.parametrize("options", [{"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [5, 7]}], ids=str)
@pytest.mark.parametrize("name", ["llama", "llama-tied", "gemma3"])
def test_gradients_of_a_trained_head_are_those_of_all_logits_at_once(name: str, options: dict[str, Any]) -> None:
    model = model_of(name, **options)
    batch = collate(ROWS, 1)
    head = head_of(model, batch, EPS)
    # Rows of an embedding are rows of the head, too, where that is tied to it.
    tied = model.get_base_model().config.tie_word_embeddings
    assert head.trained is ("modules_to_save" in options or tied)
    require_same(model, loss_sum(model, batch, head.losses(2)), loss_sum(model, batch))


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_preferences_have_the_same_losses_and_gradients(name: str) -> None:
    model = model_of(name)
    batch = pair_up(ROWS, 1)
    head, objective = head_of(model, batch, EPS), dpo(TrainingSpec(beta=0.3))
    ours = objective.loss(model, batch, 1, head.losses(2))
    require_same(model, ours, objective.loss(model, batch, 1, token_losses))
    # What is not trained yet is as likely as to the base.
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            parameter.data.zero_()
    fresh = objective.loss(model, batch, 1, head.losses(2))
    assert float(fresh) == pytest.approx(2 * 0.6931471805599453, rel=1e-6)


def test_a_micro_batch_without_a_supervised_token_has_no_loss_and_no_gradient() -> None:
    model = model_of("llama")
    head = head_of(model, collate(ROWS, 1), EPS)
    batch = collate([{"input_ids": [4, 5], "labels": [4, IGNORED]}], 1)
    loss = loss_sum(model, batch, head.losses(2))
    assert float(loss) == 0.0
    assert not any(bool(each.any()) for each in gradients(model, loss).values())


def test_no_more_logits_are_there_than_those_of_a_chunk() -> None:
    model = model_of("llama")
    batch = collate(ROWS, 1)
    head = head_of(model, batch, EPS)
    seen: list[int] = []
    listening = model.get_output_embeddings().register_forward_hook(
        lambda _module, _given, logits: seen.append(logits.shape[:-1].numel())
    )
    loss_sum(model, batch, head.losses(3)).backward()
    listening.remove()
    # One token after the decoder, and the nine supervised ones; a prompt's are never there.
    assert seen == [1, 3, 3, 3]


class Mixing(torch.nn.Module):
    """A head that looks at more than a token's own hidden state."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own = own

    def forward(self, hidden: Any) -> Any:
        return self.own(hidden + hidden.mean(dim=1, keepdim=True))


def test_a_head_that_takes_no_tokens_alone_is_told_by_its_losses() -> None:
    model = model_of("llama")
    base = model.get_base_model()
    base.lm_head = Mixing(base.lm_head)
    with pytest.raises(OnePieceError):
        head_of(model, collate(ROWS, 1), EPS)


def test_a_scale_that_is_left_out_is_told_by_its_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_of("granite"), collate(ROWS, 1)
    true = heads.Head.logits
    monkeypatch.setattr(heads.Head, "logits", lambda *given: 3.0 * true(*given))
    with pytest.raises(OnePieceError):
        head_of(model, batch, EPS)


def test_a_model_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_of("llama"), collate(ROWS, 1)
    decoder = model.get_base_model().model

    def fail(*_given: Any, **_rest: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(decoder, "forward", fail)
        with pytest.raises(torch.OutOfMemoryError):
            head_of(model, batch, EPS)
        assert vars(decoder)["forward"] is fail
    head_of(model, batch, EPS)
    assert "forward" not in vars(decoder)
