"""Variants of LoRA: what a step computes, by numpy; that none changes the base before it, and each goes on after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.families import Case, save_base, save_rows
from support.trainings import run_training, whole_and_resumed
from support.variants import token_of
from transformers import AutoModelForCausalLM, AutoTokenizer

import workers.pipelines.training.train as module
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.errors import PipelineError

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

QUICK: dict[str, Any] = {"method": "lora", "rank": 4, "lr": 0.02, "batch_size": 6, "grad_accum": 1, "dropout": 0.0}


@pytest.fixture
def llama(bases: dict[str, Path]) -> Path:
    return bases["llama"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 in bfloat16, with biases."""
    return save_base(tmp_path_factory.mktemp("gpt2"), Case("GPT-2", "lora", "attention", "bfloat16", 1))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


def run(base: Path, rows: Path, out: Path, **options: Any) -> TrainingReport:
    return run_training(base, rows, out, **{**QUICK, "max_steps": 3, **options})


MODULE = "model.layers.1.self_attn.v_proj"


class Seen:
    """The matrices and gradients of one module, before the update of the second step: then neither A nor B is zero."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from workers.pipelines.training import loop

        self.values: dict[str, Any] = {}
        self.gradients: dict[str, Any] = {}
        watch = loop._watch_gradients

        def look(adapter: Any, model: Any) -> None:
            watch(adapter, model)
            if adapter.step == 1:
                for name, parameter in adapter.parameters.items():
                    if MODULE in name:
                        part = name.partition(f"{MODULE}.lora_")[2].partition(".")[0]
                        self.values[part] = parameter.detach().double().numpy().copy()
                        self.gradients[part] = parameter.grad.double().numpy().copy()

        monkeypatch.setattr(loop, "_watch_gradients", look)


def of_the_module(base: Path, rows: Path, weight: Any) -> tuple[Any, Any]:
    """Return the inputs x, (tokens, in), of the module with another weight, and dL/dy, (tokens, out), by plain transformers."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    module = model.get_submodule(MODULE)
    module.weight.data = torch.from_numpy(weight)
    x: list[Any] = []
    dy: list[Any] = []
    module.register_forward_hook(lambda _, given, __: x.append(given[0].detach()[0]))
    module.register_full_backward_hook(lambda _, __, given: dy.append(given[0].detach()[0]))
    total: Any = 0.0
    count = 0
    for line in rows.read_text().splitlines():
        row = json.loads(line)
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = [*tokenizer(row["prompt"] + row["completion"])["input_ids"], tokenizer.eos_token_id]
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        total = total - logits.gather(1, torch.tensor(ids[1:])[:, None])[len(prompt) - 1 :].sum()
        count += len(ids) - len(prompt)
    (total / count).backward()
    # The backward pass comes to the rows in the other order.
    return torch.cat(x).numpy(), torch.cat(dy[::-1]).numpy()


@pytest.mark.parametrize(
    ("options", "scale"),
    [({"alpha": 6.0}, 6 / 4), ({"alpha": 6.0, "use_rslora": True}, 6 / 2), ({"alpha": 6.0, "use_dora": True}, 6 / 4)],
    ids=["LoRA", "rsLoRA", "DoRA"],
)
def test_the_gradients_of_a_step_are_those_by_hand(
    llama: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], scale: float
) -> None:
    from safetensors.numpy import load_file

    seen = Seen(monkeypatch)
    run(llama, rows, tmp_path / "out", **options, max_steps=2, targets=MODULE)
    a, b = seen.values["A"], seen.values["B"]
    assert a.any()
    assert b.any()
    direction = load_file(llama / "model.safetensors")[f"{MODULE}.weight"].astype(np.float64) + scale * b @ a
    # y = (m / ‖V‖) · V x, by rows of V = W + s·BA; for LoRA that is V x. The norm counts as a constant (DoRA, section 4.3).
    norm = np.linalg.norm(direction, axis=1)
    share = seen.values["magnitude_vector"] / norm if "use_dora" in options else np.ones(len(direction))
    x, dy = of_the_module(llama, rows, share[:, None] * direction)
    through = dy * share
    by_hand = {"A": scale * b.T @ through.T @ x, "B": scale * through.T @ (x @ a.T)}
    if "use_dora" in options:
        by_hand["magnitude_vector"] = (dy * (x @ direction.T) / norm).sum(axis=0)
    assert seen.gradients.keys() == by_hand.keys()
    for part, gradient in by_hand.items():
        np.testing.assert_allclose(seen.gradients[part], gradient, rtol=1e-4, atol=1e-5 * abs(gradient).max())


def test_eva_refuses_a_rank_above_the_inputs(llama: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="which are 32 wide; give a smaller rank"):
        run(llama, rows, tmp_path / "out", init_lora_weights="eva", rank=33)


ALL: list[dict[str, Any]] = [
    {"use_rslora": True, "alpha": 4.0, "rank_pattern": "c_attn=2", "alpha_pattern": "c_attn=3"},
    {"init_lora_weights": "eva", "eva_rho": 2.0, "use_dora": True, "targets": "all-linear"},
    {"use_dora": True, "layers_to_transform": "1", "modules_to_save": "ln_1"},
    {"bias": "all", "trainable_token_indices": "count"},
    {"bias": "lora_only", "method": "qlora", "quant_type": "fp4", "double_quant": False, "neftune_noise_alpha": 5.0},
    {
        "loraplus_lr_ratio": 16.0,
        "weight_decay": 0.1,
        "max_grad_norm": 0.1,
        "adam_beta1": 0.8,
        "adam_beta2": 0.99,
        "use_dora": True,
    },
]


@pytest.mark.parametrize("options", ALL, ids=lambda options: "-".join(options))
def test_a_training_that_stops_and_goes_on_ends_with_the_same_bytes(
    gpt2: Path, rows: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Before its first step each equals the base in every bit, which the training itself looks at, here in bfloat16."""
    given = {**options, "dropout": 0.2}
    if "trainable_token_indices" in given:
        given["trainable_token_indices"] = token_of(gpt2)

    def train(out: Path, **checkpoints: Any) -> None:
        run(gpt2, rows, out, **given, **checkpoints)

    whole, again = whole_and_resumed(train, tmp_path)
    assert whole == again


def _gap(base: Path, adapter: Path) -> float:
    """Return the largest distance of logits on the probe's texts, with an adapter and without, by plain PEFT."""
    from peft import PeftModel

    from sdk.schemas.probe import MOST_TOKENS
    from workers.pipelines.data.fixed_texts import PROBE_TEXTS
    from workers.pipelines.data.tokenizer import longest_row

    tokenizer, cut = AutoTokenizer.from_pretrained(base), longest_row(base, MOST_TOKENS)
    bare = AutoModelForCausalLM.from_pretrained(base)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    gaps = []
    with torch.no_grad():
        for text in PROBE_TEXTS:
            ids = torch.tensor([tokenizer(text)["input_ids"][:cut]])
            gaps.append(float((adapted(input_ids=ids).logits.float() - bare(input_ids=ids).logits.float()).abs().max()))
    return max(gaps)


def test_what_is_trained_of_a_16_bit_base_is_kept_in_32_bits_and_the_probe_sees_the_bare_base(
    gpt2: Path, rows: Path, tmp_path: Path
) -> None:
    """Biases are changed in place; steps of 1e-5 would be lost in bfloat16."""
    from safetensors.torch import load_file

    report = run(gpt2, rows, tmp_path / "out", bias="all", lr=1e-5, max_steps=1, warmup_ratio=0.0)
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    before = load_file(gpt2 / "model.safetensors")
    bias = tensors["base_model.model.transformer.h.1.mlp.c_fc.bias"]
    own = next(each for name, each in before.items() if name.endswith("h.1.mlp.c_fc.bias")).float()
    assert bias.dtype == torch.float32
    assert 0 < float((bias - own).abs().max()) <= 1.1e-5
    assert report.metrics["probe_logit_gap"] > 0
    strong = run(gpt2, rows, tmp_path / "strong", bias="all", lr=0.05, max_steps=3, targets="c_fc").metrics
    assert strong["probe_logit_gap"] == pytest.approx(_gap(gpt2, tmp_path / "strong"), rel=0.02)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank_pattern": "down_proj=2"}, "rank_pattern names down_proj, which is not among the targets"),
        ({"rank_pattern": "nope=2"}, "rank_pattern names nope, which is not a module of the base"),
        ({"modules_to_save": "q_proj"}, "modules_to_save names q_proj, which the targets adapt too"),
        ({"modules_to_save": "norm"}, "which PEFT takes for model.layers.0.input_layernorm too"),
        ({"layers_to_transform": "2"}, "layers_to_transform names the layer 2"),
        (
            {"layers_to_transform": "0", "targets": "model.layers.1.mlp.up_proj"},
            "in which the targets match no module; of the layers 1 have some",
        ),
        ({"bias": "all"}, "the base's text part has no such biases"),
        ({"trainable_token_indices": "299"}, "No row has the token 299"),
    ],
)
def test_what_can_not_be_trained_is_refused_before_the_base_is_loaded(
    llama: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(module, "load_base", None)
    with pytest.raises(PipelineError) as refused:
        run(llama, rows, tmp_path / "out", **options)
    assert said in str(refused.value)
