"""What lm-evaluation-harness 0.4.13 says of a tiny base with an adapter, recorded in `lm_eval_0.4.13.json`.

    LM_EVAL_PYTHON tests/assets/make_lm_eval.py

LM_EVAL_PYTHON is an environment with lm-eval, as `benchmarks/log_likelihoods.py` makes one. Base and adapter are drawn here from
numbers that are the same everywhere, so a test makes them again and is held against the record.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("lm_eval_0.4.13.json")
END = "<|end|>"
PAIRS = [
    {"prompt": "two and two is", "completion": " four"},
    {"prompt": "the sky is", "completion": " blue, and sometimes grey"},
    {"prompt": "вода это", "completion": " жидкость"},
    {"prompt": "東京は", "completion": "日本の首都"},
    {"prompt": "def f(x):\n    return", "completion": " x + 1"},
]
QUESTIONS: list[dict[str, Any]] = [
    {"prompt": "two and two is", "choices": [" three", " four", " a number larger than three"], "answer": 1},
    {"prompt": "the sky is", "choices": [" blue", " green", " x"], "answer": 0},
    {"prompt": "ice is", "choices": [" frozen water, as all know", " a"], "answer": 0},
    {"prompt": "вода это", "choices": [" жидкость", " w", " камень"], "answer": 2},
]


def make(folder: Path) -> tuple[Path, Path]:
    """Write the base and the adapter; return their folders."""
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={END: 0, **{letter: place for place, letter in enumerate(letters, 1)}}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END).save_pretrained(folder / "base")
    architecture = LlamaConfig(
        vocab_size=len(letters) + 1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    drawn = np.random.default_rng(17)

    def fill(model: Any, part: str = "") -> None:
        for name, weights in sorted(model.named_parameters()):
            if part in name:
                size = 0.3 * drawn.standard_normal(tuple(weights.shape), dtype=np.float32)
                weights.data = torch.from_numpy(size)

    model = LlamaForCausalLM(architecture)
    fill(model)
    model.save_pretrained(folder / "base")
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(model, lora)
    fill(adapted, "lora_")
    adapted.save_pretrained(folder / "adapter")
    config_file = folder / "adapter" / "adapter_config.json"
    said = json.loads(config_file.read_text())
    # It names a module that could be imported, so our workers refuse it.
    del said["megatron_core"]
    config_file.write_text(json.dumps(said))
    return folder / "base", folder / "adapter"


def main() -> None:
    """Write the record."""
    kinds = {
        "completions": [[row["prompt"], row["completion"] + END] for row in PAIRS],
        "choices": [[row["prompt"], choice] for row in QUESTIONS for choice in row["choices"]],
    }
    with tempfile.TemporaryDirectory() as folder:
        base, adapter = make(Path(folder))
        order = {"base": str(base), "adapter": str(adapter), "batch_size": 3, "kinds": kinds}
        peer = Path(__file__).parents[2] / "benchmarks" / "lm_eval_peer.py"
        ran = subprocess.run(
            [sys.executable, str(peer)], input=json.dumps(order), capture_output=True, text=True, check=True
        )
    said = json.loads(ran.stdout.splitlines()[-1])
    choices = iter(said["kinds"]["choices"]["log_likelihoods"])
    record = {
        "lm_eval": said["lm_eval"],
        "completions": said["kinds"]["completions"]["log_likelihoods"],
        "choices": [[next(choices) for _ in row["choices"]] for row in QUESTIONS],
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
