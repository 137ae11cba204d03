"""Tokens that are added over a base in 4 bits, by preferences, and by a classification."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from peft import PeftModel
from safetensors.torch import load_file
from support.architectures import save_model
from support.evaluated import score
from support.merges import Made, loaded, merge, require_published, save_in
from support.random_loras import logits
from support.trainings import run_training, save_jsonl, whole_and_resumed
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.schemas.evaluation import EvaluationSpec

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

#: The tokenizers of the bases have 285 tokens and their embeddings 300 rows, so that these need 6 more.
TOKENS = [f"<t{number}>" for number in range(21)]
PROMPTS = [f"{letter * 2} is " for letter in "abcdefghijklmnopqrstu"]
DELTA = "token_adapter.trainable_tokens_delta"
OPTIONS = {"rank": 4, "lr": 0.02, "schedule": "linear", "grad_accum": 1, "batch_size": 21, "dropout": 0}
HOW = {**OPTIONS, "targets": "all-linear", "add_tokens": TOKENS}


class Trained(NamedTuple):
    base: Path
    rows: Path
    adapter: Path
    report: Any
    whole: Mapping[str, bytes]
    resumed: Mapping[str, bytes]


@pytest.fixture(scope="module", params=["llama", "llama-tied"])
def over_four_bits(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A training over a base in NF4 that learns to answer with new tokens, and the same one resumed."""
    folder = tmp_path_factory.mktemp("four-bits")
    base = save_in(save_model(folder / "wide", request.param), folder / "base", dtype="bfloat16", shards=1)
    rows = save_jsonl(
        folder / "rows.jsonl", [{"prompt": p, "completion": t} for p, t in zip(PROMPTS, TOKENS, strict=True)]
    )
    reports = []

    def train(out: Path, **how: Any) -> None:
        reports.append(run_training(base, rows, out, method="qlora", max_steps=50, **HOW, **how))

    whole, resumed = whole_and_resumed(train, folder)
    return Trained(base, rows, folder / "whole", reports[0], whole, resumed)


def next_token(model: Any, tokenizer: Any, prompt: str) -> str:
    """Return the likeliest token after a prompt."""
    found = logits(model, tokenizer(prompt, return_tensors="pt")["input_ids"])[0, -1].argmax()
    return str(tokenizer.convert_ids_to_tokens(int(found)))


def test_over_four_bits_a_resumed_training_has_the_same_bytes(over_four_bits: Trained) -> None:
    assert over_four_bits.resumed == over_four_bits.whole
    assert over_four_bits.report.quantization is not None


def test_over_four_bits_transformers_and_peft_write_the_new_tokens(over_four_bits: Trained) -> None:
    tokenizer = AutoTokenizer.from_pretrained(over_four_bits.adapter)
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(over_four_bits.base, quantization_config=config, dtype=torch.bfloat16)
    model.resize_token_embeddings(len(tokenizer))
    # In evaluation bitsandbytes would pack weights for a kernel that takes none this small.
    adapted = PeftModel.from_pretrained(model, over_four_bits.adapter).train()
    said = [next_token(adapted, tokenizer, prompt) for prompt in PROMPTS]
    assert said == TOKENS


def test_over_four_bits_an_evaluation_writes_the_new_tokens(over_four_bits: Trained) -> None:
    spec = EvaluationSpec(generate_rows=len(TOKENS), max_new_tokens=2, metrics=["exact_match"])
    report = score(
        over_four_bits.base,
        over_four_bits.rows,
        over_four_bits.adapter,
        spec=spec,
        quantization=over_four_bits.report.quantization,
    )
    assert report.metrics["exact_match"] == 1.0


def test_merged_onto_the_dequantised_base_it_is_what_bitsandbytes_and_numbers_make_of_it(
    over_four_bits: Trained, tmp_path: Path
) -> None:
    """W' = dequantised W + s·B·A; the new rows are the trained ones, and the others the base's."""
    recipe = over_four_bits.report.quantization
    report = merge(
        over_four_bits.base,
        over_four_bits.adapter,
        tmp_path / "merged",
        quantization=recipe,
        onto="dequantized",
        dtype="float32",
    )
    assert report.onto == "dequantized"
    base = load_file(over_four_bits.base / "model.safetensors")
    trained = {
        name.removeprefix("base_model.model."): tensor
        for name, tensor in load_file(over_four_bits.adapter / WEIGHTS_FILE).items()
    }
    config = json.loads((over_four_bits.adapter / CONFIG_FILE).read_text())
    scale = config["lora_alpha"] / config["r"]
    found, changed = loaded(tmp_path / "merged"), set()
    for name, weight in base.items():
        module, wanted = name.removesuffix(".weight"), weight.double()
        if (a := trained.get(f"{module}.lora_A.weight")) is not None:
            packed, state = quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
            update = trained[f"{module}.lora_B.weight"].double() @ a.double()
            wanted = dequantize_4bit(packed, state).double() + scale * update
            changed.add(name)
        if (rows := trained.get(f"{module}.{DELTA}")) is not None:
            wanted = torch.cat([wanted[:285], rows.double()])
            changed.add(name)
        assert found[name].dtype == torch.float32
        assert found[name].shape == wanted.shape, name
        torch.testing.assert_close(found[name].double(), wanted, rtol=1e-6, atol=1e-7)
    assert len(changed) == 2 * 7 + len([name for name in trained if DELTA in name])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert len(model.get_input_embeddings().weight) == model.config.vocab_size == len(tokenizer) == 306
    assert [next_token(model, tokenizer, prompt) for prompt in PROMPTS] == TOKENS
    require_published(Made(over_four_bits.base, over_four_bits.adapter), tmp_path / "merged", report, vocabulary=306)


@pytest.mark.parametrize(("objective", "kind"), [("dpo", "llama-tied"), ("kto", "llama")])
def test_preferences_prefer_the_new_tokens(objective: str, kind: str, tmp_path: Path) -> None:
    """Of several objectives, one has a reference in the bare base, whose rows stay where the tokens began."""
    base = save_model(tmp_path / "base", kind)
    if objective == "dpo":
        rows = [{"prompt": p, "chosen": t, "rejected": "no"} for p, t in zip(PROMPTS, TOKENS, strict=True)]
    else:
        pairs = list(zip(PROMPTS, TOKENS, strict=True))
        rows = [{"prompt": p, "completion": t, "label": True} for p, t in pairs]
        rows += [{"prompt": p, "completion": "no", "label": False} for p, _ in pairs]
    data = save_jsonl(tmp_path / "rows.jsonl", rows)

    def train(out: Path, **how: Any) -> None:
        reports.append(run_training(base, data, out, method="lora", max_steps=8, objective=objective, **HOW, **how))

    reports: list[Any] = []
    whole, resumed = whole_and_resumed(train, tmp_path)
    assert whole == resumed
    stored = load_file(tmp_path / "whole" / WEIGHTS_FILE)
    moved = {name: rows for name, rows in stored.items() if DELTA in name}
    assert len(moved) == (2 if kind == "llama" else 1)
    assert all(bool((rows != rows[0]).any(dim=1)[1:].all()) for rows in moved.values())
    report = score(base, data, tmp_path / "whole")
    assert report.metrics["preference_accuracy" if objective == "dpo" else "auc"] == 1.0


@pytest.mark.parametrize("kind", ["llama", "llama-tied"])
def test_a_classification_tells_labels_by_the_new_tokens_alone(kind: str, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", kind)
    rows = [
        {"text": f"it is {TOKENS[number % 21]}", "label": ["low", "high"][number % 21 > 10]} for number in range(42)
    ]
    data = save_jsonl(tmp_path / "rows.jsonl", rows)

    def train(out: Path, **how: Any) -> None:
        reports.append(run_training(base, data, out, method="lora", max_steps=30, **HOW, **how))

    reports: list[Any] = []
    whole, resumed = whole_and_resumed(train, tmp_path)
    assert whole == resumed
    stored = load_file(tmp_path / "whole" / WEIGHTS_FILE)
    assert [name for name in stored if DELTA in name] == [f"base_model.model.model.embed_tokens.{DELTA}"]
    report = score(base, data, tmp_path / "whole", labels=["high", "low"])
    assert report.metrics["accuracy"] == 1.0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "whole")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model.resize_token_embeddings(len(tokenizer))
    adapted = PeftModel.from_pretrained(model, tmp_path / "whole").eval()
    with torch.no_grad():
        said = [int(adapted(**tokenizer(f"it is {token}", return_tensors="pt")).logits.argmax()) for token in TOKENS]
    assert said == [1] * 11 + [0] * 10
