"""Encoders that read what a row is padded with: no row's label depends on its neighbours in a pass."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support import encoders, tiny
from support.trainings import run_training

from workers.pipelines.data.classify import guesses, reads_padding
from workers.pipelines.data.examples import Example
from workers.pipelines.model.classifier import Classes, configure
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base

pytestmark = pytest.mark.filterwarnings("ignore")

CLASSES = Classes(("fruit", "tool", "weather"), 0)
EXAMPLES = [
    Example([2, *(7 + (5 * at + length) % 40 for at in range(length)), 3], [0], [], "", "", row=length)
    for length in (3, 25, 9, 14, 4)
]


def save_encoder(folder: Path, name: str) -> Path:
    """Write an encoder of two layers with BERT's tokenizer."""
    vocabulary = transformers.AutoConfig.from_pretrained(encoders.save_bert(folder)).vocab_size
    torch.manual_seed(4)
    kinds = {"fnet": ("FNet", {"pad_token_id": 0}), "convbert": ("ConvBert", {"embedding_size": 64})}
    kind, own = kinds[name]
    sizes = {key: value for key, value in encoders.SIZES.items() if name != "fnet" or key != "num_attention_heads"}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocabulary, max_position_embeddings=32, initializer_range=0.2, **sizes, **own
    )
    getattr(transformers, f"{kind}ForMaskedLM")(config).save_pretrained(folder)
    return folder


def loaded(base: Path) -> Any:
    return load_base(base, choose_device(), quantization=None, dtype="float32", classes=CLASSES).model


@pytest.mark.parametrize("name", ["fnet", "convbert"])
def test_a_row_is_told_apart_as_it_is_alone(name: str, tmp_path: Path) -> None:
    model = loaded(save_encoder(tmp_path, name))
    assert reads_padding(model, 0)
    one, many = (
        {guess.example.row: guess.loss for part in guesses(model, EXAMPLES, 0, rows, "cpu") for guess in part}
        for rows in (1, 5)
    )
    assert many == one
    assert all(map(math.isfinite, one.values()))


def test_blocks_that_follow_the_length_are_left_as_they_are() -> None:
    sizes = {**encoders.SIZES, "vocab_size": 300, "max_position_embeddings": 512, "initializer_range": 0.2}
    config = transformers.BigBirdConfig(**sizes, block_size=8, num_random_blocks=2, pad_token_id=0)
    rows = [Example([7 + at % 90 for at in range(length)], [0], [], "", "", row=length) for length in (300, 200, 20)]
    found = []
    for together in (1, 3):
        torch.manual_seed(4)
        model = transformers.AutoModelForSequenceClassification.from_config(configure(config, CLASSES)).eval()
        assert reads_padding(model, 0)
        assert model.bert.attention_type == "block_sparse"
        found.append([guess.loss for part in guesses(model, rows, 0, together, "cpu") for guess in part])
    assert found[0] == found[1]


@pytest.mark.parametrize("save", [encoders.save_bert, encoders.save_roberta, tiny.save_llama])
def test_others_are_passed_together(save: Any, tmp_path: Path) -> None:
    model = loaded(save(tmp_path))
    assert not reads_padding(model, model.config.pad_token_id or 0)
    assert len(list(guesses(model, EXAMPLES, 0, 5, "cpu"))) == 1


@pytest.mark.parametrize("start", [{}, {"init_lora_weights": "eva"}], ids=["random", "eva"])
def test_a_training_passes_rows_one_at_a_time(start: dict[str, Any], tmp_path: Path) -> None:
    base, said = save_encoder(tmp_path / "base", "fnet"), list[str | None]()
    rows = encoders.write_topics(tmp_path / "rows.jsonl", count=12)
    spec = {"method": "lora", "targets": "all-linear", "dropout": 0.0, "max_steps": 2, "lr": 1e-2, "rank": 2, **start}
    for name, batch in {"one": {"batch_size": 1, "grad_accum": 6}, "six": {"batch_size": 6, "grad_accum": 1}}.items():
        report = run_training(
            base, rows, tmp_path / name, on_progress=lambda progress: said.append(progress.message), **spec, **batch
        )
        assert report.training["micro_batch"] == 1
    assert "rows are passed one at a time: fnet reads what they are padded with" in said
    one, six = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "six"))
    assert all(torch.equal(one[key], six[key]) for key in one)
