"""The plan's memory against the measured peak of a training on a CPU: `python -m benchmarks.planning`.

Each configuration runs two steps over a random base in a fresh child: anonymous memory above that after the imports, sampled every
5 ms, with one malloc arena and one thread. The table has configuration, forecast, measured and error, in GB of 10⁹ bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

_SHAPE = {
    "num_hidden_layers": 6,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 32000,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
_EXPERTS = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 256}
#: Config, options of the training, type, rows, length, and whether activations are computed twice.
CASES: list[tuple[dict[str, Any], dict[str, Any], str, int, int, bool]] = [
    ({"model_type": "llama"}, {}, "float32", 4, 512, False),
    ({"model_type": "llama"}, {}, "float32", 4, 512, True),
    ({"model_type": "llama"}, {"targets": "all-linear"}, "bfloat16", 4, 512, False),
    ({"model_type": "llama", "vocab_size": 4000}, {"use_dora": True}, "bfloat16", 8, 512, False),
    ({"model_type": "qwen3", "vocab_size": 48000}, {"dropout": 0.0}, "bfloat16", 4, 512, True),
    ({"model_type": "gemma3_text", "vocab_size": 100000}, {"targets": "all-linear"}, "float32", 2, 512, True),
    ({"model_type": "qwen3_moe", **_EXPERTS}, {}, "float32", 4, 512, False),
]


def main() -> None:
    """Run every configuration, and print the table."""
    print("| base | dtype | options | rows × length | checkpointing | forecast | measured | error |")
    print("|---|---|---|---|---|---|---|---|")
    for case in CASES:
        config, options, dtype, rows, length, checkpointing = case
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.planning", json.dumps(case)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"},
        )
        said = json.loads(done.stdout.splitlines()[-1])
        error = 100 * (said["forecast_bytes"] / said["measured_bytes"] - 1)
        name = f"{config['model_type']}, {config.get('vocab_size', _SHAPE['vocab_size']):,} tokens"
        asked = ", ".join(f"{key} {value}" for key, value in options.items()) or "defaults"
        sizes = f"{said['forecast_bytes'] / 1e9:.2f} | {said['measured_bytes'] / 1e9:.2f}"
        how = "on" if checkpointing else "off"
        print(f"| {name} | {dtype} | {asked} | {rows} × {length} | {how} | {sizes} | {error:+.0f} % |", flush=True)


def measure(
    config: dict[str, Any], options: dict[str, Any], dtype: str, rows: int, length: int, checkpointing: bool
) -> dict[str, int]:
    """Return forecast and peak of one configuration, above what the imports take."""
    import peft
    import torch
    import transformers

    from sdk.lora.planning.adapter import adapter_of
    from sdk.lora.planning.blueprint import blueprint_of
    from sdk.lora.planning.footprint import adapter_parts, pass_parts, weights_parts
    from sdk.schemas.training import TrainingSpec

    said = _SHAPE | config
    spec = TrainingSpec.model_validate(options)
    base = blueprint_of(said)
    adapter = adapter_of(base, spec)
    width = 4 if dtype == "float32" else 2
    parts = [
        weights_parts(base, "lora", width=width),
        adapter_parts(adapter, "adamw"),
        pass_parts(
            base,
            adapter,
            tokens=rows * length,
            length=length,
            checkpointing=checkpointing,
            width=width,
            dropout=spec.dropout,
            place="cpu",
        ),
    ]
    kind = transformers.CONFIG_MAPPING[said["model_type"]]
    settings = kind(**{name: value for name, value in said.items() if name != "model_type"})
    before, peak, stop = _anonymous_bytes(), [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            peak[0] = max(peak[0], _anonymous_bytes())
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    model: Any = transformers.AutoModelForCausalLM.from_config(settings, dtype=getattr(torch, dtype))
    lora = peft.LoraConfig(
        r=spec.rank, lora_dropout=spec.dropout, target_modules=sorted(adapter.modules), use_dora=spec.use_dora
    )
    model = peft.get_peft_model(model, lora).train()
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    ids = torch.randint(0, base.vocabulary, (rows, length))
    mask = torch.ones_like(ids)
    mask[0, -5:] = 0
    for _ in range(2):
        model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    stop.set()
    watcher.join()
    return {
        "forecast_bytes": sum(size for part in parts for size in part.values()),
        "measured_bytes": peak[0] - before,
    }


def _anonymous_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - read two hundred times a second
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measure(*json.loads(sys.argv[1]))))
    else:
        main()
