"""A base that is stored in 4 bits, through a real worker: trained, scored and merged, and what of it is recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import tiny
from support.quantised import pack_base
from support.workplace import Workplace, opened

from sdk.schemas.job_requests import BaseChoice

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    folder = tmp_path_factory.mktemp("stored")
    with opened(folder) as place:
        packed = pack_base(tiny.save_llama(tmp_path_factory.mktemp("wide")), folder / "tiny-bnb-4bit")
        base = place.world.admin.bases.add(packed, upload=True)
        place.base = BaseChoice(id=base.id, revision=base.revision, fingerprint=base.fingerprint)
        yield place


def test_a_stored_base_is_trained_over_scored_and_merged(place: Workplace, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    client = place.client
    with place.worker():
        trained = client.job(place.submit(steps=2, method="qlora", lr=0.01)).wait()
        version = client.get(str((trained.view.result or {})["ref"])).info
        scores = client.submit_evaluation(
            [version.ref, f"base:{place.base.id}"], data=tiny.write_rows(tmp_path / "r.jsonl")
        )
        merged = client.submit_merge(version.ref)
        assert [item.precision for item in scores.wait().result()] == ["nf4", "nf4"]
        model = merged.wait().result()
    recipe = version.quantization
    assert (recipe.type, recipe.double_quant, recipe.compute_dtype, recipe.storage_dtype) == (
        "nf4",
        True,
        "bfloat16",
        "uint8",
    )
    assert "metrics" in version.reported
    assert (
        version.metrics["base_nf4_parameters"] + version.metrics["base_bfloat16_parameters"]
        == version.metrics["base_parameters"]
    )
    said = [event.progress.message for event in client.jobs.events(trained.id) if event.progress is not None]
    assert any((message or "").startswith("the base is held as nf4 ") for message in said)
    model.save(tmp_path / "model")
    assert "quantization_config" not in json.loads((tmp_path / "model" / "config.json").read_text())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert not any("4bit" in type(module).__name__ for module in plain.modules())
    assert model.report["onto"] == "dequantized"
