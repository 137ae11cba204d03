"""Bases of several parts, trained on text: from the rows to a version that plain PEFT loads, and a merged model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from support.architectures import save_model
from support.evaluated import score
from support.merges import merge
from support.random_loras import logits
from support.tiny import write_rows
from support.trainings import run_training
from support.weights import admitted
from transformers import AutoModelForImageTextToText

from sdk.formats.adapter_files import WEIGHTS_FILE, lora_key
from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import scan_base
from sdk.pushing.pack import pack_adapter
from sdk.schemas.evaluation import EvaluationSpec
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import load_adapter
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base

pytestmark = pytest.mark.filterwarnings("ignore")

INPUT_IDS = torch.arange(20, 40).reshape(2, 10)


def trained(base: Path, data: Path, out: Path, **spec: Any) -> Any:
    options = {"method": "lora", "rank": 2, "max_steps": 2, "batch_size": 2, "grad_accum": 1, "lr": 1e-2, **spec}
    return run_training(base, data, out, eval_data=data, **options)


@pytest.fixture(scope="module", params=["gemma3-vision", "qwen2.5-vl"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("several") / request.param, request.param)


@pytest.mark.parametrize(
    "spec",
    [
        {"targets": "all-linear"},
        {"targets": r".*\.layers\.1\..*_proj", "exclude": "o_proj", "method": "qlora"},
    ],
    ids=["preset", "pattern"],
)
def test_a_training_on_text_comes_to_a_version_that_loads(base: Path, tmp_path: Path, spec: dict[str, Any]) -> None:
    data, out = write_rows(tmp_path / "rows.jsonl", count=4), tmp_path / "adapter"
    report = trained(base, data, out, **spec)
    modules = {key.module for name in load_file(out / WEIGHTS_FILE) if (key := lora_key(name))}
    assert modules
    assert all(".language_model." in module for module in modules)

    admitted(out, base, report.lora)

    scored = score(base, data, out, spec=EvaluationSpec(generate_rows=2, max_new_tokens=4))
    bare = score(base, data)
    assert scored.metrics["loss"] != bare.metrics["loss"]

    shutil.copytree(out, tmp_path / "plain")
    plain = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), tmp_path / "plain").eval()
    expected = logits(plain, INPUT_IDS)
    merge(base, out, tmp_path / "merged")
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").eval()
    assert (logits(merged, INPUT_IDS) - expected).abs().max() < 1e-3
    assert (logits(AutoModelForImageTextToText.from_pretrained(base).eval(), INPUT_IDS) - expected).abs().max() > 1e-3


def test_what_peft_saved_by_a_pattern_and_an_exclusion_is_pushed_as_names(base: Path, tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(base)
    config = LoraConfig(
        r=2,
        target_modules=r".*\.(q|v)_proj",
        exclude_modules=r".*\.(visual|vision_tower)\..*",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    adapted.save_pretrained(tmp_path / "saved")
    registration = scan_base(base, cache=Cache(tmp_path / "cache")).registration
    (tmp_path / "pushed").mkdir()
    package = pack_adapter(
        tmp_path / "saved",
        base_id="tiny",
        base_revision=None,
        base_fingerprint=registration.fingerprint,
        staging=tmp_path / "pushed",
        expand_patterns=True,
    )
    places = (f"model.language_model.layers.{n}.self_attn.{name}_proj" for n in (0, 1) for name in "qv")
    assert package.lora.target_modules == sorted(places)
    shutil.copy(tmp_path / "saved" / WEIGHTS_FILE, tmp_path / "pushed")
    admitted(tmp_path / "pushed", registration, package.lora)
    loaded = load_base(base, choose_device(), quantization=None, dtype="float32")
    found = logits(load_adapter(loaded.model, tmp_path / "pushed"), INPUT_IDS)
    assert (found - logits(adapted.eval(), INPUT_IDS)).abs().max() < 1e-4


def test_what_text_does_not_train_is_refused_before_the_base_is_loaded(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.pipelines.training.train.load_base", lambda *_, **__: pytest.fail("it was loaded"))
    targets = ",".join(["q_proj", "qkv"] if "qwen" in base.name else ["q_proj"])
    with pytest.raises(PipelineError, match=r"not part of the text .* such as '\.\*") as caught:
        trained(base, write_rows(tmp_path / "rows.jsonl", count=2), tmp_path / "out", targets=targets)
    assert caught.value.reason == "targets"
