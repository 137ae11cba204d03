"""What a step over uneven rows takes, padded, sorted, packed, and with all logits at once: `python -m benchmarks.once.packing`.

Each way is a fresh child with one thread and one malloc arena, over the same random base of SmolLM2's width and five of its layers. Time is that of
the processor, the least of three steps; memory is the anonymous peak above that once the base is loaded. Useful tokens are those of the rows.

Its figures in docs/training-options.md and RESULTS.md are of 2026-11-27.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WAYS = (
    "padded, all logits",
    "padded",
    "sorted, all logits",
    "sorted",
    "one row a pass",
    "packed under a mask",
    "packed, short passes",
    "packed",
)
DTYPES = ("float32", "bfloat16")
#: Rows of a step and of a pass, and their lengths: lognormal, as those of instructions are (mean, spread, longest).
STEP, PASS = 16, 4
LENGTHS = {"long, uneven": (4.6, 0.8, 512), "short, uneven": (3.4, 0.8, 512)}


def main() -> None:
    """Run every way, and print the table."""
    print("| rows | type | way | passes | computed / useful | useful tokens/s | peak, MB |")
    print("|---|---|---|---|---|---|---|")
    for rows in LENGTHS:
        for dtype in DTYPES:
            for way in WAYS:
                done = subprocess.run(
                    [sys.executable, "-W", "ignore", "-m", "benchmarks.once.packing", json.dumps([rows, dtype, way])],
                    capture_output=True,
                    text=True,
                    env={**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                )
                if done.returncode:
                    raise RuntimeError(done.stderr[-2000:])
                said = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"| {rows} | {dtype} | {way} | {said['passes']} | {said['computed']:.2f} | {said['tokens_per_s']:.0f}"
                    f" | {said['peak_bytes'] / 1e6:.0f} |",
                    flush=True,
                )


def measure(kind: str, dtype: str, way: str) -> dict[str, Any]:
    """Take three steps in one way; return passes, tokens computed for each useful one, useful tokens/s and peak."""
    import torch

    from sdk.lora.memory import chunk_tokens
    from workers.pipelines.cpu.row_attention import take_rows_alone
    from workers.pipelines.cpu.saved_tensors import narrow_saved
    from workers.pipelines.data.batches import collate, loss_sum, token_losses
    from workers.pipelines.data.heads import head_of

    torch.set_num_threads(1)
    rows = _rows(*LENGTHS[kind])
    model = _model(getattr(torch, dtype))
    head = head_of(model, collate(rows[-2:], 0), torch.finfo(getattr(torch, dtype)).eps)
    losses = token_losses if "all logits" in way else head.losses(chunk_tokens(model.config.vocab_size, "cpu"))
    if way.startswith("packed") and "mask" not in way:
        take_rows_alone(model.get_base_model())
    useful = sum(len(row["input_ids"]) for row in rows)
    before, peak, times = _anonymous_bytes(), 0, []
    for _ in range(3):
        _forget_peak()
        began, passes, tokens = time.process_time(), 0, 0
        for part in _passes(rows, way)():
            with narrow_saved(getattr(torch, dtype)):
                loss = loss_sum(model, part, losses)
            loss.backward()
            passes += 1
            tokens += part["input_ids"].numel()
        times.append(time.process_time() - began)
        model.zero_grad()
        peak = max(peak, _peak_bytes())
    return {
        "passes": passes,
        "computed": tokens / useful,
        "tokens_per_s": useful / min(times),
        "peak_bytes": peak - before,
    }


def _passes(rows: list[dict[str, list[int]]], way: str) -> Callable[[], Iterator[Any]]:
    from workers.pipelines.data.batches import collate, micro_batches, padded
    from workers.pipelines.data.packing import packed

    if way.startswith("padded"):
        # As they come.
        return lambda: (padded(rows[at::PASS], 0) for at in range(PASS))
    batch = collate(rows, 0)
    if way.startswith("packed"):
        return lambda: packed(batch, (PASS if way == "packed" else 1) * len(rows[0]["input_ids"]))
    return lambda: micro_batches(batch, 1 if way.startswith("one") else PASS)


def _rows(mean: float, spread: float, longest: int) -> list[dict[str, list[int]]]:
    drawn = random.Random(1)  # noqa: S311 - nothing secret
    lengths = sorted(
        (min(longest, max(12, int(drawn.lognormvariate(mean, spread)))) for _ in range(STEP)), reverse=True
    )
    ids = [[drawn.randrange(5, 49_000) for _ in range(length)] for length in lengths]
    # The loss is on the second half.
    return [{"input_ids": row, "labels": [-100] * (len(row) // 2) + row[len(row) // 2 :]} for row in ids]


def _model(dtype: Any) -> Any:
    import peft
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=5,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    base = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    lora = peft.LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM")
    return peft.get_peft_model(base, lora).train()


def _anonymous_bytes() -> int:
    return _status("RssAnon")


def _peak_bytes() -> int:
    """The peak since it was forgotten, without the files that are mapped."""
    return _status("VmHWM") - _status("RssFile")


def _status(name: str) -> int:
    with Path("/proc/self/status").open() as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(*json.loads(sys.argv[1]))))
    else:
        main()
