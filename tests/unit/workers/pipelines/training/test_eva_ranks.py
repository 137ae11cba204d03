"""EVA: A starts at the directions that numpy finds in a module's inputs, and ranks move by their variance, at the scale asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from support.trainings import run_training, save_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdk.lora.redistribution import is_redistribution
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from sdk.validation import build
from workers.pipelines.errors import PipelineError
from workers.pipelines.training import train as training

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

QUICK: dict[str, Any] = {
    "method": "lora",
    "rank": 4,
    "lr": 0.02,
    "batch_size": 6,
    "grad_accum": 1,
    "dropout": 0.0,
    "max_steps": 1,
    "init_lora_weights": "eva",
    "eva_rho": 2.0,
    "targets": "all-linear",
}
WORDS = ["the", "cat", "sat", "on", "the", "mat", "and", "two", "and", "two", "are", "four"]
PAIRS = [{"prompt": f"say {n}:", "completion": " " + " ".join(WORDS[n % 7 : n % 7 + 3 + n % 4])} for n in range(40)]


@pytest.fixture
def llama(bases: dict[str, Path]) -> Path:
    return bases["llama"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", PAIRS)


def train(base: Path, rows: Path, out: Path, **options: Any) -> TrainingReport:
    return run_training(base, rows, out, **{**QUICK, **options})


def inputs_of(base: Path) -> dict[str, Any]:
    """Return of each linear module its inputs at the tokens to learn, (tokens, in), by plain transformers."""
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    found: dict[str, list[Any]] = {}
    learnt = 0
    for name, linear in model.named_modules():
        if isinstance(linear, torch.nn.Linear) and "lm_head" not in name:
            linear.register_forward_pre_hook(
                lambda _, given, name=name: found.setdefault(name, []).append(given[0].detach()[0, learnt:-1])
            )
    for pair in PAIRS:
        # The first token to learn is predicted at the one before it.
        learnt = len(tokenizer(pair["prompt"])["input_ids"]) - 1
        ids = [*tokenizer(pair["prompt"] + pair["completion"])["input_ids"], tokenizer.eos_token_id]
        model(input_ids=torch.tensor([ids]))
    return {name: torch.cat(parts).double().numpy() for name, parts in found.items()}


def ranks_by_numpy(inputs: dict[str, Any], rank: int, most: int) -> tuple[dict[str, int], float]:
    """Return the ranks by σ²/Σσ² over all modules, the largest first, and how near the first left out came to the last."""
    shares = {}
    for name, x in inputs.items():
        squares = np.linalg.svd(x, compute_uv=False) ** 2
        shares[name] = (squares / squares.sum())[:most]
    further = sorted(((share, name) for name, each in shares.items() for share in each[1:]), reverse=True)
    given = (rank - 1) * len(shares)
    ranks = dict.fromkeys(shares, 1)
    for _, name in further[:given]:
        ranks[name] += 1
    return ranks, further[given - 1][0] - further[given][0]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What an adapter has before its first step, once it is made: its matrices, and rank and scale of each module."""
    found: dict[str, Any] = {}
    true_adapted = training.adapted

    def adapted(*given: Any) -> Any:
        model = true_adapted(*given)
        found["fresh"] = {name: each.clone() for name, each in get_peft_model_state_dict(model).items()}
        found["scales"] = scales_of(model)
        return model

    monkeypatch.setattr(training, "adapted", adapted)
    return found


def scales_of(model: Any) -> dict[str, tuple[int, float]]:
    layers = ((name, each) for name, each in model.named_modules() if isinstance(each, LoraLayer))
    return {name: (each.r["default"], each.scaling["default"]) for name, each in layers}


def directions(fresh: dict[str, Any], inputs: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Each module, its A, and as many directions of its inputs by numpy, within 5° of which A is; with B = 0 it is the base."""
    assert all(not each.any() for name, each in fresh.items() if "lora_B" in name)
    for name, x in inputs.items():
        a = fresh[f"base_model.model.{name}.lora_A.weight"].double().numpy()
        right = np.linalg.svd(x, full_matrices=False)[2][: len(a)]
        angles = np.degrees(np.arccos(np.clip(np.linalg.svd(a @ right.T)[1], -1, 1)))
        assert angles.max() < 5, name
        yield name, a, right


def test_each_a_starts_at_the_directions_of_its_inputs(
    llama: Path, rows: Path, tmp_path: Path, seen: dict[str, Any]
) -> None:
    report = train(llama, rows, tmp_path / "out", eva_rho=1.0, rank_pattern="q_proj=6")
    assert report.training["init_lora_weights"] == "eva"
    for name, a, right in directions(seen["fresh"], inputs_of(llama)):
        assert len(a) == (6 if "q_proj" in name else 4)
        # Each direction too, not only what they span.
        assert np.abs(np.diag(a @ right.T)).min() > 0.99, name
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "out")


def test_ranks_follow_the_variance_of_inputs_and_plain_peft_loads_what_was_trained(
    llama: Path, rows: Path, tmp_path: Path, seen: dict[str, Any]
) -> None:
    report = train(llama, rows, tmp_path / "out")

    inputs = inputs_of(llama)
    ranks, gap = ranks_by_numpy(inputs, rank=4, most=8)
    found = {name.removeprefix("base_model.model."): each for name, each in seen["scales"].items()}
    assert found.keys() == ranks.keys()
    assert sum(rank for rank, _ in found.values()) == 4 * len(found)
    assert max(ranks.values()) > 4 > min(ranks.values())
    # Modules with equal inputs, such as q and k, may take each other's place at the end.
    assert gap > 1e-9 or gap == 0
    assert sorted(rank for rank, _ in found.values()) == sorted(ranks.values())
    assert sum(found[name][0] != rank for name, rank in ranks.items()) <= (0 if gap else 2)
    # The scale that was asked for, alpha/rank, in each of them.
    assert {scale for _, scale in found.values()} == {2.0}
    assert [name for name, *_ in directions(seen["fresh"], inputs)] == list(inputs)

    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    moved = {name: rank for name, (rank, _) in found.items() if rank != 4}
    assert config["rank_pattern"] == report.lora.rank_pattern == moved
    assert config["alpha_pattern"] == report.lora.alpha_pattern == {name: 2.0 * rank for name, rank in moved.items()}
    assert is_redistribution(build(TrainingSpec, **QUICK), report.lora)
    assert report.training["eva_rho"] == 2.0
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "out")
    assert scales_of(loaded) == seen["scales"]
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", "pt") as file:
        numbers = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - it is no dictionary
    assert report.metrics["trainable_parameters"] == numbers


def test_under_rslora_the_scale_stays_too(llama: Path, rows: Path, tmp_path: Path) -> None:
    train(llama, rows, tmp_path / "out", use_rslora=True, alpha=4.0)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "out")
    ranks, scales = zip(*scales_of(loaded).values(), strict=True)
    assert len(set(ranks)) > 1
    assert {round(scale, 12) for scale in scales} == {2.0}


def test_a_checkpoint_with_other_ranks_is_refused(llama: Path, rows: Path, tmp_path: Path) -> None:
    from workers.pipelines.training.resuming import moved_ranks

    report = train(llama, rows, tmp_path / "out")
    spec = build(TrainingSpec, **QUICK)
    (tmp_path / "report.json").write_text(report.model_dump_json())
    fresh = report.lora.model_copy(update={"rank_pattern": {}, "alpha_pattern": {}})
    assert moved_ranks(tmp_path, fresh, spec) == report.lora
    name = next(iter(report.lora.rank_pattern))
    odd = report.lora.model_copy(update={"rank_pattern": {**report.lora.rank_pattern, name: 9}})
    (tmp_path / "report.json").write_text(report.model_copy(update={"lora": odd}).model_dump_json())
    with pytest.raises(PipelineError, match="none that eva_rho allows"):
        moved_ranks(tmp_path, fresh, spec)
