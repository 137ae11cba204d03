"""Bases that turn all tokens of a pass by other frequencies where its longest row is long: no row's result depends on its neighbours."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
import transformers
from support.architectures import config_of

from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.training import TrainingSpec
from workers.pipelines.data import preferences
from workers.pipelines.data.batches import collate, example_losses, loss_sum, micro_batches, token_losses
from workers.pipelines.data.examples import Example
from workers.pipelines.data.packing import keeps_apart, packed
from workers.pipelines.model.rotary import turns_at
from workers.pipelines.orders import Fit
from workers.pipelines.scoring.generation import generate
from workers.pipelines.training.fitting import Fitting

pytestmark = pytest.mark.filterwarnings("ignore")

EPS = torch.finfo(torch.float32).eps
#: Where the second set of frequencies begins: beyond so many tokens.
WITHIN = 12
LENGTHS = (15, 14, 13, 12, 7, 5)


@pytest.fixture(scope="module")
def model() -> Any:
    config = copy.deepcopy(config_of("phi3"))
    half = config.hidden_size // config.num_attention_heads // 2
    config.original_max_position_embeddings = WITHIN
    config.rope_parameters = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "original_max_position_embeddings": WITHIN,
        "short_factor": [1.0] * half,
        "long_factor": [4.0] * half,
    }
    torch.manual_seed(1)
    base = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    lora = peft.LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return peft.get_peft_model(base, lora).eval()


def tokens(length: int) -> dict[str, list[int]]:
    ids = [(7 * at + 3 * length) % 250 + 5 for at in range(length)]
    return {"input_ids": ids, "labels": ids}


def alone(model: Any) -> list[Any]:
    """The losses of each row's tokens, in a pass of its own."""
    return [token_losses(model, collate([tokens(length)], 1))[0].detach() for length in LENGTHS]


def test_where_it_begins_is_read_from_the_config(model: Any) -> None:
    assert turns_at(model) == WITHIN + 1
    assert turns_at(transformers.AutoModelForCausalLM.from_config(config_of("llama"))) is None


def test_beside_longer_rows_a_row_is_turned_otherwise_than_alone(model: Any) -> None:
    """What is kept from happening does happen: else this file shows nothing."""
    mixed = token_losses(model, collate([tokens(15), tokens(7)], 1))[0]
    assert float((mixed[-6:] - alone(model)[LENGTHS.index(7)]).abs().max()) > 1e-3


def test_a_step_has_the_loss_of_its_rows_alone(model: Any) -> None:
    batch, expected = collate([tokens(length) for length in LENGTHS], 1), torch.cat(alone(model)).sum()
    turns = turns_at(model)
    for passes in (micro_batches(batch, 4, turns), packed(batch, 100, turns), packed(batch, 20, turns)):
        assert sum(float(loss_sum(model, part)) for part in passes) == pytest.approx(float(expected), rel=1e-5)
    assert [part["input_ids"].shape[0] for part in micro_batches(batch, 4, turns)] == [3, 3]


def test_an_evaluation_of_each_row_is_that_of_the_row_alone(model: Any) -> None:
    examples = [
        Example(**tokens(length), prompt_ids=[], prompt="", reference="", row=at) for at, length in enumerate(LENGTHS)
    ]
    one, many = (
        {example.row: loss for part in example_losses(model, examples, 1, rows, "cpu") for example, loss in part}
        for rows in (1, 6)
    )
    assert many == pytest.approx(one, rel=1e-5)


PAIRS = ((15, 6), (5, 14), (12, 12), (7, 9), (5, 3))


def test_a_pair_is_that_of_the_pair_alone(model: Any) -> None:
    """The reference is the bare base, by other weights: neither's log-likelihoods may depend on other pairs."""
    pairs = [[tokens(first), tokens(second)] for first, second in PAIRS]
    each, turns = [preferences.collate(pair, 1) for pair in pairs], turns_at(model)
    objective = preferences.dpo(TrainingSpec())
    expected = sum(float(objective.loss(model, batch, 1, token_losses)) for batch in each)
    batch = preferences.collate([sequence for pair in pairs for sequence in pair], 1)
    fitting: Any = SimpleNamespace(fit=Fit(micro_rows=4, checkpointing=False), turns=turns, on_cuda=False)
    passes = list(Fitting.parts(fitting, batch, 2))
    assert [part["input_ids"].shape for part in passes] == [(4, 15), (6, 12)]
    assert sum(float(objective.loss(model, part, 1, token_losses)) for part in passes) == pytest.approx(
        expected, rel=1e-6
    )

    examples = [
        Example(**tokens(length), prompt_ids=[], prompt="", reference="")
        for length in itertools.chain.from_iterable(PAIRS)
    ]
    one, many = (
        [pair for part in preferences.judged(model, examples, 1, rows, "cpu") for pair in part] for rows in (1, 5)
    )
    assert [list(pair) for pair in many] == [pytest.approx(list(pair), rel=1e-5, abs=1e-5) for pair in one]


def test_an_answer_is_that_of_its_prompt_alone(model: Any) -> None:
    prompts = [tokens(length)["input_ids"] for length in range(3, 18)]
    tokenizer = SimpleNamespace(pad_token_id=1, batch_decode=lambda found, **_: [str(row.tolist()) for row in found])

    def answers(some: list[list[int]], rows: int) -> list[str]:
        target: Any = SimpleNamespace(
            tokenizer=tokenizer,
            device=SimpleNamespace(torch_device="cpu"),
            spec=EvaluationSpec(batch_size=rows, max_new_tokens=6),
            report=lambda progress: None,
        )
        return [each.text for each in generate(model, some, target, [299])]

    assert answers(prompts, 5) == [answers([prompt], 1)[0] for prompt in prompts]


def test_what_follows_each_length_is_not_packed() -> None:
    config = copy.deepcopy(config_of("llama"))
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    assert not keeps_apart(model, collate([tokens(5), tokens(4)], 1), token_losses, EPS)
