"""What a worker forecasts of a training once it has read the rows."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from support.architectures import ARCHITECTURES, config_of

from sdk.lora.memory import chunk_tokens
from sdk.lora.planning.adapter import adapter_of
from sdk.lora.planning.blueprint import blueprint_of
from sdk.lora.planning.footprint import pass_parts
from sdk.lora.planning.forecast import CONTEXT_BYTES, PROCESS_BYTES
from sdk.lora.planning.job_forecasts import PlannedTraining
from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.batches import SFT
from workers.pipelines.data.classify import CLASSIFY
from workers.pipelines.model.device import resident_bytes
from workers.pipelines.orders import Fit
from workers.pipelines.training.forecasting import (
    adapter_in,
    blueprint_in,
    forecast,
    forecast_bytes,
    needs_checkpointing,
)

SPEC = TrainingSpec(method="lora", batch_size=2, max_length=64)


def given(*lengths: int, supervised: int | None = None, kind: str = "cpu", **changed: Any) -> Any:
    examples = [
        SimpleNamespace(input_ids=[1] * length, supervised_tokens=length if supervised is None else supervised)
        for length in lengths
    ]
    known = {"spec": SPEC, "objective": SFT, "device": SimpleNamespace(kind=kind), "classes": None}
    known |= {"order": SimpleNamespace(base=None), "lora": SimpleNamespace(rank_pattern={}), "process_bytes": None}
    return SimpleNamespace(rows=SimpleNamespace(examples=examples), **(known | changed))


def fit(*, checkpointing: bool = False, chunk_tokens: int | None = 64) -> Fit:
    return Fit(micro_rows=SPEC.batch_size, checkpointing=checkpointing, chunk_tokens=chunk_tokens)


@pytest.fixture(scope="module")
def loaded() -> Any:
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config_of("llama"))
    return SimpleNamespace(model=model, dtype="bfloat16", held="native")


def test_with_rows_as_long_as_they_may_be_it_is_the_one_of_the_submit(loaded: Any) -> None:
    config = loaded.model.config.to_dict() | {"dtype": "bfloat16"}
    submitted = PlannedTraining(config, {}, SPEC).forecast()
    for kind, expected in (("cpu", submitted.machine), ("cuda", submitted.card)):
        chunk = chunk_tokens(loaded.model.config.vocab_size, kind)
        found = forecast(given(64, 64, 64, kind=kind), loaded, fit(checkpointing=True, chunk_tokens=chunk))
        assert found.model_dump() == expected.model_dump()


def test_it_goes_by_the_longest_rows_and_by_what_is_learnt_of_them(loaded: Any) -> None:
    def parts(*lengths: int, **known: Any) -> dict[str, int]:
        found = forecast(given(*lengths, **known), loaded, fit(chunk_tokens=None))
        return {part.name: part.size_bytes for part in found.parts}

    long, short = parts(64, 64, 8), parts(8, 8, 64)
    assert long["logits"] > short["logits"]
    assert long["activations"] == short["activations"]
    assert parts(64, 64, supervised=16)["logits"] < long["logits"]


def test_the_process_is_taken_as_it_was_measured(loaded: Any) -> None:
    fitting: Any = SimpleNamespace(fit=fit(), steps=[])
    sizes = [forecast_bytes(given(8, process_bytes=measured), loaded, fitting) for measured in (None, 2**30, 2**31)]
    assert None not in sizes
    usual, small, large = (size or 0 for size in sizes)
    assert (small - usual, large - small) == (2**30 - PROCESS_BYTES, 2**30)
    # It is in no card.
    on_cards = {forecast_bytes(given(8, kind="cuda", process_bytes=size), loaded, fitting) for size in (None, 2**30)}
    assert len(on_cards) == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says it")
def test_what_a_process_has_in_memory_is_measured() -> None:
    before = resident_bytes()
    assert before is not None
    hold = bytearray(64 * 2**20)
    hold[:: 2**10] = b"x" * len(hold[:: 2**10])
    assert (resident_bytes() or 0) - before >= 60 * 2**20


def test_of_a_card_the_allocator_does_not_count_the_context(loaded: Any) -> None:
    made = forecast(given(8, kind="cuda"), loaded, fit())
    fitting: Any = SimpleNamespace(fit=fit(), steps=[])
    assert forecast_bytes(given(8, kind="cuda"), loaded, fitting) == made.card_bytes - CONTEXT_BYTES
    # Where memory ran out, the peak is that of what was given up.
    fitting.steps.append("step 3: 1 rows a pass")
    assert forecast_bytes(given(8, kind="cuda"), loaded, fitting) is None


def test_what_is_quantised_and_made_wide_is_held_in_16_bits(loaded: Any) -> None:
    sizes = {}
    for held in ("packed", "wide"):
        base = SimpleNamespace(model=loaded.model, dtype="bfloat16", held=held)
        found = forecast(given(8, spec=TrainingSpec()), base, fit())
        sizes[held] = {part.name for part in found.parts if "weights" in part.name}
    assert sizes == {"packed": {"weights in 4 bits", "weights in 16 bits"}, "wide": {"weights"}}


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
    spec = TrainingSpec(targets="all-linear", use_dora=True, rank_pattern="q_proj=2", trainable_token_indices="5,6")
    planned = adapter_of(blueprint_of(config.to_dict()), spec)
    lora = peft.LoraConfig(
        r=spec.rank,
        target_modules=planned.targets,
        rank_pattern=spec.ranks,
        use_dora=True,
        init_lora_weights=False,
        trainable_token_indices=spec.tokens,
    )
    model = peft.get_peft_model(_model(config).to_empty(device="cpu"), lora)
    found = adapter_in(model)
    assert {name.removeprefix("base_model.model."): module for name, module in found.modules.items()} == planned.modules
    assert {name.removeprefix("base_model.model."): shape for name, shape in found.whole.items()} == planned.whole
    assert (found.trains_rows, found.trains_head_rows) == (True, False)
    assert adapter_in(model, tied=True).trains_head_rows


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
