"""Whether a merged SmolLM2 writes what the base writes with the adapter beside it in plain PEFT: greedy text and predictions.

    python benchmarks/merged_text.py ADAPTER [CACHE]

ADAPTER is the folder of an adapter for SmolLM2-135M-Instruct, such as `make demo` pulls. Base and merged model are read by
transformers; the prompts are functions of the standard library.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.pipelines import merge
from examples.docstrings.base import make_base
from examples.docstrings.dataset import write_dataset

PROMPTS = 50
NEW_TOKENS = 32


def run(adapter: Path, cache: Path) -> dict[str, Any]:
    """Merge in float32 and in bfloat16; return how many of the texts are the same, and how far the predictions are apart."""
    base, prompts = make_base(cache), prompts_of(cache)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        wide = merged(in_float32(base, Path(folder) / "float32"), adapter, Path(folder) / "wide")
        narrow = merged(base, adapter, Path(folder) / "narrow")
        texts = _texts(base, adapter, prompts), _texts(wide, None, prompts)
        as_trained = _logits(base, adapter, prompts, torch.float32)
        rounded = _logits(base, adapter, prompts, torch.bfloat16)
        return {
            "prompts": len(prompts),
            "new_tokens": NEW_TOKENS,
            "same_texts_float32": sum(one == other for one, other in zip(*texts, strict=True)),
            "kl_float32": _kl(as_trained, _logits(wide, None, prompts, torch.float32)),
            # What the weights have lost by being rounded, what computing with them in bfloat16 adds, and what that
            # does to the base and adapter themselves.
            "kl_bfloat16_weights": _kl(as_trained, _logits(narrow, None, prompts, torch.float32)),
            "kl_bfloat16": _kl(rounded, _logits(narrow, None, prompts, torch.bfloat16)),
            "kl_bfloat16_as_trained": _kl(as_trained, rounded),
        }


def prompts_of(cache: Path) -> list[str]:
    """Return the prompts, those of rows that were held out of the training first."""
    rows = [json.loads(line) for path in reversed(write_dataset(cache / "rows")) for line in path.open()]
    return [row["prompt"] for row in rows[:PROMPTS]]


def merged(base: Path, adapter: Path, out: Path) -> Path:
    """Merge into a folder, which is returned, in the type of the base."""
    merge(base, adapter, out)
    return out


def in_float32(base: Path, to: Path) -> Path:
    """Write a base once more with its weights in float32; return the folder."""
    to.mkdir()
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            (to / path.name).write_bytes(path.read_bytes())
    weights = {name: tensor.float() for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    return to


def load(folder: Path, adapter: Path | None, dtype: Any) -> Any:
    """Return the model of a folder, with an adapter beside it or bare."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return (model if adapter is None else PeftModel.from_pretrained(model, adapter)).eval()


def _ids(folder: Path, prompts: list[str]) -> list[Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(prompt, return_tensors="pt")["input_ids"] for prompt in prompts]


def _texts(folder: Path, adapter: Path | None, prompts: list[str]) -> list[list[int]]:
    """Return what a model writes after each prompt, greedily, in float32."""
    model = load(folder, adapter, torch.float32)
    texts = []
    for ids in _ids(folder, prompts):
        written = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS
        )
        texts.append(written[0, ids.shape[1] :].tolist())
    return texts


def _logits(folder: Path, adapter: Path | None, prompts: list[str], dtype: Any) -> list[Any]:
    """Return the log-probabilities over each prompt, (seq, vocab) in float32, as a model computes them in a precision."""
    model = load(folder, adapter, dtype)
    with torch.no_grad():
        return [model(input_ids=ids).logits[0].float().log_softmax(-1) for ids in _ids(folder, prompts)]


def _kl(expected: list[Any], found: list[Any]) -> float:
    """Mean KL(expected ‖ found) in nats a token."""
    pairs = zip(expected, found, strict=True)
    each = torch.cat([(one.exp() * (one - other)).sum(-1) for one, other in pairs])
    return float(each.mean())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    root = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.gettempdir()) / "adapterctl-benchmarks"
    print(json.dumps(run(Path(sys.argv[1]), root)))
