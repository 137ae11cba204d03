"""What a merge takes at its peak is what is asked for: less kills it, and far more leaves it waiting for no reason."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from support import processes, tiny
from support.soak import SOAKING

from sdk.lora.memory import merge_bytes, prompts_bytes
from sdk.schemas.lora_config import LoraConfig
from workers.pipelines.model.adapters import write_adapter
from workers.pipelines.model.device import choose_device

#: As a worker's child merges, in a process of its own. What it maps of files is no memory of its own: only the rest counts.
CHILD = """
import sys, threading, time
from pathlib import Path
from types import SimpleNamespace
from sdk.schemas.evaluation import MergeSpec
from sdk.schemas.lora_config import QuantizationRecipe
import workers.pipelines.merging.merge as merging
from workers.pipelines.model.device import Device
from workers.pipelines.orders import MergeOrder
folder, method, prompts = Path(sys.argv[1]), *sys.argv[2:]
recipe = QuantizationRecipe(compute_dtype="bfloat16") if method == "qlora" else None
if prompts == "no":
    Device.available_memory_bytes = lambda self: 0
peak = 0
def watch():
    global peak
    while True:
        lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
        peak = max(peak, int(lines["RssAnon"].split()[0]))
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
order = MergeOrder(base=folder / "base", adapter=folder / "adapter", quantization=recipe, labels=None, spec=MergeSpec())
# A plain one takes less than what is asked for any.
merging.plain = lambda *given: None
report = merging.carry_out(order, SimpleNamespace(out=folder / "out", report=lambda progress: None))
print(report.read_back.prompts.partition(":")[0].replace(" ", "-"), peak)
"""


def save_base(folder: Path, hidden: int, layers: int) -> int:
    """Write a random Llama in bfloat16; return the size of its weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    config = LlamaConfig(
        vocab_size=tiny.save_tokenizer(folder),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return (folder / "model.safetensors").stat().st_size


def save_adapter(folder: Path, hidden: int, layers: int) -> None:
    lora = LoraConfig(rank=4, alpha=8.0, dropout=0.0, target_modules=["q_proj"], task_type="CAUSAL_LM")
    tensors = {}
    for layer in range(layers):
        prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{prefix}.lora_A.weight"] = torch.randn(4, hidden) * 0.01
        tensors[f"{prefix}.lora_B.weight"] = torch.randn(hidden, 4) * 0.01
    write_adapter(folder, tensors=tensors, lora=lora, base_name="org/b", base_revision=None, fan_in_fan_out=False)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count of a process's own memory")
@pytest.mark.parametrize(("method", "prompts"), [("qlora", "no"), *([("lora", "yes")] if SOAKING else [])])
def test_the_peak_of_a_merge_is_what_is_asked_for_and_at_least_half_of_it(
    tmp_path: Path, method: str, prompts: str
) -> None:
    hidden, layers = 1024, 8
    size_bytes = save_base(tmp_path / "base", hidden, layers)
    save_adapter(tmp_path / "adapter", hidden, layers)
    command = [sys.executable, "-c", CHILD, str(tmp_path), method, prompts]
    said = processes.finished(*command, timeout_s=500, check=True).stdout.split()
    assert said[-2] == ("run" if prompts == "yes" else "not-run")
    measured = int(said[-1]) * 1024
    asked = merge_bytes(quantized=method == "qlora")
    if prompts == "yes":
        # A CPU that can't multiply 16-bit numbers holds them in 32.
        wider = 1 if choose_device().compute_dtype == "bfloat16" else 2
        weights_bytes = wider * size_bytes
        asked += prompts_bytes(weights_bytes, quantized=False, merged_bytes=weights_bytes, vocabulary=300)
    assert measured <= asked <= 2 * measured, f"{measured / 2**20:.0f} MiB were taken, {asked / 2**20:.0f} asked for"


def test_what_is_asked_for_does_not_grow_with_the_base() -> None:
    assert merge_bytes(quantized=True) < 2**30
    small, large = (
        prompts_bytes(size, quantized=False, merged_bytes=size, vocabulary=32_000) for size in (2**30, 2**34)
    )
    assert small < large
