"""How long `adapterctl generate` takes, warm and cold, against a script that does the same with plain PEFT.

    python -m benchmarks.ask OUT [--base DIR] [--warm 20] [--cold 3]

`OUT` is a new folder. The base is SmolLM2-135M-Instruct, or the folder given; the adapter has rank 8 in all attention modules.
The prompt has 32 tokens. Times are from the start of the command to the first byte of the answer, and to its end; beside the
seconds of the clock are those of the processor, of the command and of the engine program, which a busy machine doesn't change as
much. Cold runs of both kinds take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

PROMPT_TOKENS, ANSWER_TOKENS = 32, 16
#: What somebody would write without adapterctl.
SCRIPT = """\
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer

base, adapter, prompt, tokens = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = PeftModel.from_pretrained(model, adapter).eval()
ids = tokenizer(prompt, return_tensors="pt")
streamer = TextStreamer(tokenizer, skip_prompt=True)
model.generate(**ids, max_new_tokens=int(tokens), do_sample=False, streamer=streamer)
"""
_ADAPTER = """\
import sys
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

base, out = sys.argv[1:]
torch.manual_seed(1)
model = get_peft_model(
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
    LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]),
)
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        parameter.data = torch.randn_like(parameter) * 0.002
model.save_pretrained(out)
"""


class Times(NamedTuple):
    """Of one command, in seconds."""

    first_s: float
    all_s: float
    #: Of the processor: of the command and its children that it waited for.
    processor_s: float


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--warm", type=int, default=20)
    parser.add_argument("--cold", type=int, default=3)
    given = parser.parse_args()
    out: Path = given.out.absolute()
    out.mkdir(parents=True)
    base = (given.base or _base(out)).absolute()
    os.environ |= {
        "HOME": str(out),
        "ADAPTERCTL_URL": f"local:{out / 'home'}",
        "ADAPTERCTL_CACHE": str(out / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    adapter = out / "adapter"
    _run(sys.executable, "-c", _ADAPTER, str(base), str(adapter))
    _run(*_adapterctl("push", str(adapter), "asked", "--base", str(base)))
    prompt = _prompt(base)
    script = [sys.executable, "-c", SCRIPT, str(base), str(adapter), prompt, str(ANSWER_TOKENS)]
    ask = _adapterctl("generate", "asked@v1", prompt, "--plain", "--max-new-tokens", str(ANSWER_TOKENS))
    cold, peft, begun = [], [], []
    for _ in range(given.cold):
        subprocess.run(_adapterctl("down"), capture_output=True, check=False)
        cold.append(_timed(ask))
        begun.append(_engine_s())
        peft.append(_timed(script))
    warm, engine = [], []
    _timed(ask)
    for _ in range(given.warm):
        before = _engine_s()
        warm.append(_timed(ask))
        engine.append(_engine_s() - before)
    one = _adapterctl("generate", "asked@v1", prompt, "--plain", "--max-new-tokens", "1")
    first = []
    for _ in range(given.warm):
        before = _engine_s()
        _timed(one)
        first.append(_engine_s() - before)
    subprocess.run(_adapterctl("down"), capture_output=True, check=False)
    figures = {
        "load": os.getloadavg()[0],
        "warm": _medians(warm) | {"engine_processor_s": _median(engine), "engine_first_processor_s": _median(first)},
        "cold": _medians(cold) | {"engine_processor_s": _median(begun)},
        "peft": _medians(peft),
        "cold_over_peft": round(_median([one.first_s for one in cold]) / _median([one.first_s for one in peft]), 2),
    }
    print(json.dumps(figures, indent=2))


def _adapterctl(*args: str) -> list[str]:
    return [str(Path(sys.executable).parent / "adapterctl"), *args]


def _base(out: Path) -> Path:
    from benchmarks.training import example

    found: Path = example("base").make_base(out)
    return found


def _prompt(base: Path) -> str:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = tokenizer("Write the first line of the docstring of this Python function. " * 8)["input_ids"][:PROMPT_TOKENS]
    return str(tokenizer.decode(ids))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _timed(command: list[str]) -> Times:
    started, before = time.perf_counter(), os.times()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        if not child.stdout.read(1):
            raise SystemExit(f"nothing was answered by: {' '.join(command[:2])}")
        first_s = time.perf_counter() - started
        child.stdout.read()
    after = os.times()
    spent_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Times(first_s, time.perf_counter() - started, spent_s)


def _engine_s() -> float:
    """The seconds of the processor that the engine program has taken."""
    import psutil

    parts = json.loads(_output("status", "--format", "json"))
    (pid,) = (part["pid"] for part in parts if part["part"].startswith("engine "))
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _output(*args: str) -> str:
    return subprocess.run(_adapterctl(*args), capture_output=True, check=True, text=True).stdout


def _medians(times: list[Times]) -> dict[str, Any]:
    take: dict[str, Callable[[Times], float]] = {
        "first_s": lambda one: one.first_s,
        "all_s": lambda one: one.all_s,
        "processor_s": lambda one: one.processor_s,
    }
    return {name: _median([of(one) for one in times]) for name, of in take.items()}


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 3)


if __name__ == "__main__":
    main()
