"""Onto which base an adapter is to be merged that was trained over one in 4 bits: its own weights, or those of the training.

    python -m benchmarks.once.merge_bases ADAPTER [CACHE]

ADAPTER is the folder of an adapter for SmolLM2-135M-Instruct that was trained by QLoRA, such as `make demo` pulls: what it is
worth on rows that it has not seen is measured over each base, merged and not. Of random models in the shapes of three families,
with updates of a given size, the distance to what was trained is.

Its figures in docs/merging.md are of 2026-11-27.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen3Config, set_seed

from benchmarks.pipelines import merge, score
from examples.docstrings.base import make_base
from examples.docstrings.dataset import write_dataset
from sdk.schemas.evaluation import EvaluationSpec, MergeSpec, Onto
from sdk.schemas.lora_config import QuantizationRecipe

RECIPE = QuantizationRecipe()
ONTO: tuple[Onto, ...] = ("original", "dequantized")
FAMILIES: dict[str, Any] = {"Llama": LlamaConfig, "Qwen3": Qwen3Config, "Gemma 3": Gemma3TextConfig}
#: ‖s·B·A‖ in parts of ‖W‖: of short trainings, and of long ones.
SIZES = (0.003, 0.01, 0.03, 0.1)
RANK = 8


def run(adapter: Path, cache: Path) -> dict[str, Any]:
    """Return the losses over SmolLM2, and for each family and size of update how far either merge is from the training."""
    base = make_base(cache)
    _, heldout = write_dataset(cache / "rows")
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        return {
            "SmolLM2": _losses(base, adapter, heldout, Path(folder)),
            "random": [
                _distances(name, size, base, Path(folder) / f"{name}-{size}") for name in FAMILIES for size in SIZES
            ],
        }


def _losses(base: Path, adapter: Path, rows: Path, folder: Path) -> dict[str, float]:
    """Held-out loss in nats a token, and the KL of both merges to what was trained."""
    found: dict[str, float] = {}
    for onto in ONTO:
        report = _merged(base, adapter, folder / onto, onto)
        found[f"kl_{onto}"] = report[f"logit_kl_{onto}"]
        found[f"loss_merged_{onto}"] = _loss(folder / onto, None, rows, None)
    return found | {
        "loss_base": _loss(base, None, rows, None),
        "loss_base_nf4": _loss(base, None, rows, RECIPE),
        "loss_as_trained": _loss(base, adapter, rows, RECIPE),
        "loss_beside_16_bit_base": _loss(base, adapter, rows, None),
    }


def _loss(base: Path, adapter: Path | None, rows: Path, quantization: QuantizationRecipe | None) -> float:
    spec = EvaluationSpec(generate_rows=0, max_length=512)
    return score(base, rows, adapter, spec, quantization=quantization).metrics["loss"]


def _merged(base: Path, adapter: Path, out: Path, onto: Onto) -> dict[str, float]:
    return merge(base, adapter, out, MergeSpec(onto=onto), quantization=RECIPE).metrics


def _distances(family: str, size: float, words: Path, folder: Path) -> dict[str, Any]:
    """Make a random base with the tokenizer of `words` and an adapter of a size; return the KL of both merges."""
    set_seed(0)
    config = FAMILIES[family](
        vocab_size=49152,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        # Random weights of the usual 0.02 predict nearly the same whatever is put in.
        initializer_range=0.06,
    )
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    base, adapter = folder / "base", folder / "adapter"
    model.save_pretrained(base)
    for path in words.iterdir():
        if path.name.startswith(("tokenizer", "chat_template")):
            (base / path.name).write_bytes(path.read_bytes())
    peft = get_peft_model(
        model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for module in peft.modules():
        if hasattr(module, "lora_B"):
            _give_size(module, size)
    peft.save_pretrained(adapter)
    # As a push does.
    config = json.loads((adapter / "adapter_config.json").read_text())
    config.pop("megatron_core", None)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    kls = {f"kl_{onto}": _merged(base, adapter, folder / onto, onto)[f"logit_kl_{onto}"] for onto in ONTO}
    return {"family": family, "update": size, **kls}


def _give_size(module: Any, size: float) -> None:
    """Set B to random numbers under which ‖s·B·A‖ is `size`·‖W‖."""
    with torch.no_grad():
        a, b = module.lora_A["default"].weight.float(), module.lora_B["default"].weight
        drawn = torch.randn(b.shape)
        norm = (module.scaling["default"] * drawn @ a).norm()
        b.copy_(drawn * size * module.get_base_layer().weight.float().norm() / norm)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    root = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.gettempdir()) / "adapterctl-benchmarks"
    root.mkdir(parents=True, exist_ok=True)
    print(json.dumps(run(Path(sys.argv[1]), root), indent=1))
