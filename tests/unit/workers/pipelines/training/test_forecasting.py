"""What a worker forecasts of a training once it has read the rows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from support.architectures import config_of

from sdk.lora.memory import chunk_tokens
from sdk.lora.planning.forecast import CONTEXT_BYTES, PROCESS_BYTES
from sdk.lora.planning.job_forecasts import PlannedTraining
from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.batches import SFT
from workers.pipelines.model.device import resident_bytes
from workers.pipelines.orders import Fit
from workers.pipelines.training.forecasting import forecast, forecast_bytes

SPEC = TrainingSpec(method="lora", batch_size=2, max_length=64)


def given(*lengths: int, supervised: int | None = None, kind: str = "cpu", **changed: Any) -> Any:
    examples = [
        SimpleNamespace(input_ids=[1] * length, supervised_tokens=length if supervised is None else supervised)
        for length in lengths
    ]
    known = {"spec": SPEC, "objective": SFT, "device": SimpleNamespace(kind=kind), "base": None, "classes": None}
    known |= {"lora": SimpleNamespace(rank_pattern={}), "process_bytes": None}
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
        assert found is not None
        assert expected is not None
        assert found.model_dump() == expected.model_dump()


def test_it_goes_by_the_longest_rows_and_by_what_is_learnt_of_them(loaded: Any) -> None:
    def parts(*lengths: int, **known: Any) -> dict[str, int]:
        found = forecast(given(*lengths, **known), loaded, fit(chunk_tokens=None))
        assert found is not None
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
    assert made is not None
    assert forecast_bytes(given(8, kind="cuda"), loaded, fitting) == made.card_bytes - CONTEXT_BYTES
    # Where memory ran out, the peak is that of what was given up.
    fitting.steps.append("step 3: 1 rows a pass")
    assert forecast_bytes(given(8, kind="cuda"), loaded, fitting) is None


def test_what_is_quantised_and_made_wide_is_held_in_16_bits(loaded: Any) -> None:
    sizes = {}
    for held in ("packed", "wide"):
        base = SimpleNamespace(model=loaded.model, dtype="bfloat16", held=held)
        found = forecast(given(8, spec=TrainingSpec()), base, fit())
        assert found is not None
        sizes[held] = {part.name for part in found.parts if "weights" in part.name}
    assert sizes == {"packed": {"weights in 4 bits", "weights in 16 bits"}, "wide": {"weights"}}
