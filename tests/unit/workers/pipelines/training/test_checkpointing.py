"""Whether activations are kept: what is forecast of bases in memory, of whatever architecture."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from support.architectures import ARCHITECTURES, config_of

from sdk.lora.planning.adapter import adapter_of
from sdk.lora.planning.blueprint import blueprint_of
from sdk.lora.planning.footprint import pass_parts
from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.batches import SFT
from workers.pipelines.data.classify import CLASSIFY
from workers.pipelines.orders import Fit
from workers.pipelines.training.forecasting import adapter_in, blueprint_in, needs_checkpointing

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def _model(config: Any) -> Any:
    makers = (transformers.AutoModelForCausalLM, transformers.AutoModelForImageTextToText, transformers.AutoModel)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for maker in makers:
            try:
                return maker.from_config(config)
            except ValueError:
                continue
    raise AssertionError(config.model_type)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_architecture_has_a_forecast(name: str) -> None:
    model = _model(config_of(name))
    parts = pass_parts(blueprint_in(model), adapter_in(model), tokens=8, length=8, checkpointing=False)
    assert min(parts.values()) > 0


def test_what_a_model_adapts_is_what_a_plan_says() -> None:
    import peft

    config = config_of("llama")
    spec = TrainingSpec(targets="all-linear", use_dora=True, rank_pattern="q_proj=2")
    planned = adapter_of(blueprint_of(config.to_dict()), spec)
    lora = peft.LoraConfig(
        r=spec.rank, target_modules=planned.targets, rank_pattern=spec.ranks, use_dora=True, init_lora_weights=False
    )
    model = peft.get_peft_model(_model(config).to_empty(device="cpu"), lora)
    found = adapter_in(model)
    assert {name.removeprefix("base_model.model."): module for name, module in found.modules.items()} == planned.modules


@pytest.mark.parametrize(("objective", "checkpointing"), [(SFT, True), (CLASSIFY, False)])
def test_a_classification_has_no_logits_of_the_vocabulary(objective: Any, checkpointing: bool) -> None:
    model = _model(config_of("llama"))
    kept = pass_parts(
        blueprint_in(model), adapter_in(model), tokens=8, length=8, checkpointing=False, width=4, place="cpu"
    )
    free = 2 * kept["activations"] + kept["logits"]
    given: Any = SimpleNamespace(
        rows=SimpleNamespace(examples=[SimpleNamespace(input_ids=[1] * 8)]),
        spec=TrainingSpec(dropout=0.0),
        objective=objective,
        device=SimpleNamespace(kind="cpu", available_memory_bytes=lambda: free),
    )
    loaded: Any = SimpleNamespace(model=model, dtype="float32")
    fit = Fit(micro_rows=4, checkpointing=False)
    assert needs_checkpointing(given, loaded, model, fit) is checkpointing
