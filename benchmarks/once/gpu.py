"""What needs a card: speed, peaks against forecasts, 7B in 8 GB, memory that runs out, a kill, evaluation, merge, compiled and offloaded steps.

    python -m benchmarks.once.gpu OUT.json            # on a machine with CUDA, in under nine minutes
    python -m benchmarks.once.gpu OUT.json --tiny     # the same parts over tiny bases, also on a CPU, to see that it works

Bases have random weights in real shapes and are made where it runs, so nothing is fetched. Each part runs in a process of its
own under a deadline; one that fails says why, and the others go on. OUT.json is written anew after each part. Beside torch,
transformers, peft and accelerate it needs bitsandbytes, pydantic and what `pyproject.toml` names of them.

No page has figures of it; `tests/e2e/test_gpu.py` runs it with --tiny where there is a card.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
#: The shape of Llama-2-7B, of a Llama of 1.1 B, and one for a machine without a card.
SHAPES: dict[str, dict[str, int]] = {
    "7B": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "1B": {
        "vocab_size": 32000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
#: Options of the trainings whose peaks are held against the forecast; each has rows that are full.
FORECASTS: tuple[dict[str, Any], ...] = (
    {"method": "qlora", "batch_size": 1, "max_length": 1024},
    {"method": "qlora", "batch_size": 4, "max_length": 512},
    {"method": "qlora", "batch_size": 8, "max_length": 512, "targets": "all-linear", "rank": 64},
    {"method": "lora", "batch_size": 4, "max_length": 512},
    {"method": "lora", "batch_size": 4, "max_length": 512, "optim": "adamw_8bit", "targets": "all-linear", "rank": 64},
    {"method": "qlora", "batch_size": 2, "max_length": 512, "use_dora": True},
)
#: Seconds that a part may take; together nine minutes with the minute in which bases are made.
DEADLINES_S = {
    "speed": 100,
    "forecast": 80,
    "seven": 80,
    "ladder": 55,
    "resume": 50,
    "evaluate_and_merge": 55,
    "steps": 60,
}
#: The memory that a 7B QLoRA may take, and what is left to a training of 64 rows a pass that should find too little.
SEVEN_BYTES, LADDER_BYTES = 8 * 10**9, 4 * 10**9


def main() -> None:
    """Run all parts, or one of them in this process."""
    asked = argparse.ArgumentParser(description="What needs a card.")
    asked.add_argument("out", type=Path)
    asked.add_argument(
        "--tiny", action="store_true", help="tiny bases, also without a card, to see that the script works"
    )
    asked.add_argument("--part", help=argparse.SUPPRESS)
    asked.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part](given.folder, given.tiny)))
        return
    found: dict[str, Any] = {"machine": _machine()}
    if not given.tiny and found["machine"]["card"] is None:
        sys.exit("this machine has no CUDA card; `--tiny` runs the same parts over tiny bases")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="adapterctl-gpu-") as scratch:
        for part in ("bases", *DEADLINES_S):
            begun = time.perf_counter()
            found[part] = _run(part, Path(scratch), tiny=given.tiny)
            found[part]["seconds"] = round(time.perf_counter() - begun, 1)
            found["seconds"] = round(time.perf_counter() - started, 1)
            given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"{part}: {json.dumps(found[part])}", flush=True)
    failed = [part for part in DEADLINES_S if "error" in found[part]]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def _run(part: str, folder: Path, *, tiny: bool) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__)), "unused", "--part", part, "--folder", str(folder)]
    return _said([*command, *["--tiny"] * tiny], deadline_s=DEADLINES_S.get(part, 60))


def _said(command: list[str], *, deadline_s: float) -> dict[str, Any]:
    """Return the JSON of a program's last line, or what went wrong, under "error"."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": _path()}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        try:
            out, err = program.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            program.communicate()
            return {"error": f"not done after {deadline_s:.0f} s"}
    if program.returncode:
        return {"error": err.strip()[-1500:] or f"exit status {program.returncode}"}
    said: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return said


def _path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _machine() -> dict[str, Any]:
    import torch

    card = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        card = {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
        }
    return {
        "card": card,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def bases(folder: Path, tiny: bool) -> dict[str, Any]:
    """Make bases and rows: even ones that fill a row, uneven ones, and ones to evaluate on."""
    made = {}
    for name in ("tiny",) if tiny else ("1B", "7B"):
        begun = time.perf_counter()
        _make_base(folder / name, SHAPES[name])
        made[name] = {"seconds": round(time.perf_counter() - begun, 1), "bytes": _size_of(folder / name)}
    chosen = random.Random(0)  # noqa: S311 - the same rows each time
    words = [line.split()[0] for line in (ROOT / "README.md").read_text("utf-8").splitlines() if line.split()]
    text = " ".join(chosen.choices(words, k=60_000))
    # A text that is longer than a row is split into full rows.
    (folder / "even.jsonl").write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    uneven = [
        {
            "prompt": " ".join(chosen.choices(words, k=chosen.randint(5, 120))),
            "completion": " ".join(chosen.choices(words, k=chosen.randint(2, 40))),
        }
        for _ in range(256)
    ]
    for file, rows in (("uneven", uneven[:240]), ("held-out", uneven[240:])):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{file}.jsonl").write_text(lines, encoding="utf-8")
    return made


def _make_base(folder: Path, shape: dict[str, int]) -> None:
    """Write a random Llama in bfloat16, made where torch computes, and a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from examples.tiny.make import save_tokenizer

    folder.mkdir()
    save_tokenizer(folder, (ROOT / "README.md").read_text("utf-8").splitlines())
    torch.manual_seed(0)
    config = LlamaConfig(
        **shape, max_position_embeddings=4096, bos_token_id=None, eos_token_id=0, pad_token_id=1, initializer_range=0.05
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="4GB")


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


_TRAIN = """
import json, sys, time
from pathlib import Path
from sdk.schemas.training import TrainingSpec
from benchmarks import pipelines
from sdk.schemas.job_requests import CheckpointPolicy
import workers.pipelines.training.train as module
import torch
from contextlib import nullcontext
from workers.pipelines.training.fitting import Fitting
from workers.pipelines.training import loop
base, data, out, options, every, resume, share = sys.argv[1:]
asked, times = json.loads(options), []
compiled, offloaded = asked.pop("compiled", False), asked.pop("offloaded", False)
run, step, fitting_of = loop.run, loop.take_step, module.fitting_of
def offloading(*given, **named):
    found = fitting_of(*given, **named)
    found.fit = found.fit.model_copy(update={"checkpointing": True, "offloading": torch.cuda.is_available()})
    return found
if offloaded:
    module.fitting_of = offloading
def running(shared, *given, **named):
    # The checks before the first step look at the layers as they are.
    for layer in shared.model.get_base_model().model.layers if compiled else ():
        layer.compile(dynamic=True)
    return run(shared, *given, **named)
def stepping(*given):
    begun = time.perf_counter()
    found = step(*given)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    times.append(time.perf_counter() - begun)
    return found
module.run, loop.take_step = running, stepping
if compiled:
    # Of a CPU alone; torch can't compile what looks at tensors.
    Fitting.saving = lambda fitting: nullcontext()
if float(share) < 1:
    torch.cuda.set_per_process_memory_fraction(float(share))
policy = CheckpointPolicy(every_steps=int(every) or None, every_minutes=None)
said = []
report = pipelines.train(Path(base), Path(data), Path(out), TrainingSpec.model_validate(asked), checkpoint=policy,
                         resume=Path(resume) if resume else None, heard={
                             "report": lambda progress: said.append(progress.message),
                             "wrote_checkpoint": lambda step, total, folder: print("checkpoint", folder, flush=True)})
reserved = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
print(json.dumps({**report.metrics, "training": report.training, "reserved_bytes": reserved, "steps_s": times,
                  "said": [line for line in said if line]}))
"""


def _train(
    base: Path,
    data: Path,
    out: Path,
    options: dict[str, Any],
    *,
    every: int = 0,
    resume: Path | None = None,
    share: float = 1.0,
) -> dict[str, Any]:
    """Train in a process of its own, which may take `share` of the card's memory; a checkpoint every so many steps."""
    command = [sys.executable, "-c", _TRAIN, base, data, out, json.dumps(options), every, resume or "", share]
    done = _said([str(each) for each in command], deadline_s=120)
    if "error" in done:
        raise SystemExit(f"{options}: {done['error']}")
    return done


def _bigger(tiny: bool) -> str:
    return "tiny" if tiny else "7B"


def _smaller(tiny: bool) -> str:
    return "tiny" if tiny else "1B"


def speed(folder: Path, tiny: bool) -> dict[str, Any]:
    """Ours and the common script in turn over the same base and rows, rank, effective batch and steps, twice each."""
    base, data, steps = folder / _smaller(tiny), folder / "uneven.jsonl", 2 if tiny else 10
    options = {"rank": 8, "alpha": 16.0, "max_steps": steps, "lr": 5e-4, "batch_size": 4, "grad_accum": 4}
    ours, theirs = [], []
    for number in range(1 if tiny else 2):
        ours.append(_train(base, data, folder / f"speed-{number}", options))
        script = [ROOT / "benchmarks" / "common_script.py", base, data, folder / f"common-{number}", steps]
        done = _said([sys.executable, *map(str, script)], deadline_s=120)
        if "error" in done:
            raise SystemExit(f"the common script: {done['error']}")
        theirs.append(done)
    found: dict[str, Any] = {}
    for name in ("tokens_per_s", "peak_memory_bytes"):
        mine, other = (statistics.median(each[name] for each in figures) for figures in (ours, theirs))
        found[name] = {"ours": mine, "common script": other, "ratio": round(mine / other, 2)}
    found["gradient_checkpointing"] = ours[0]["training"]["gradient_checkpointing"]
    return found


def steps(folder: Path, tiny: bool) -> dict[str, Any]:
    """Steps over rows of one length as they are, with each layer compiled by torch, and with what is computed twice waiting in main memory.

    The first half of each warms up.
    """
    options = {"batch_size": 4, "grad_accum": 1, "max_length": 512, "max_steps": 4 if tiny else 12, "lr": 5e-4}
    found: dict[str, Any] = {}
    for name in ("as it is", "compiled", "offloaded"):
        asked = options | ({name: True} if found else {})
        done = _train(folder / _smaller(tiny), folder / "even.jsonl", folder / f"steps-{len(found)}", asked)
        times = done["steps_s"]
        found[name] = {
            "step_s": statistics.median(times[len(times) // 2 :]),
            "first_step_s": times[0],
            "peak_memory_bytes": done["peak_memory_bytes"],
            "loss": done["loss"],
        }
    return found


def forecast(folder: Path, tiny: bool) -> dict[str, Any]:
    """Peaks of allocations on the card against the plan of the same training. On a CPU only that it runs is seen."""
    from sdk.lora.planning.blueprint import blueprint_of
    from sdk.lora.planning.plan import plan_of
    from sdk.lora.planning.recommending import Asked
    from sdk.schemas.training import TrainingSpec

    base = folder / _smaller(tiny)
    blueprint = blueprint_of(json.loads((base / "config.json").read_text("utf-8")))
    rows = []
    for number, options in enumerate(FORECASTS[: 2 if tiny else None]):
        given = {**options, "max_steps": 3, "grad_accum": 1}
        done = _train(base, folder / "even.jsonl", folder / f"forecast-{number}", given)
        kept = bool(done["training"]["gradient_checkpointing"])
        asked = Asked(
            TrainingSpec.model_validate(given | {"objective": "sft"}),
            given=tuple(given),
            as_given=True,
            method=options["method"],
            gpu="80GB",
            gradient_checkpointing=kept,
            logit_chunk_tokens=done["training"].get("logit_chunk_tokens"),
        )
        parts = {
            part.name: part.size_bytes for part in plan_of(blueprint, asked).forecast.parts if part.where == "card"
        }
        # torch doesn't count the context.
        foreseen = sum(size for name, size in parts.items() if name != "CUDA context")
        rows.append(
            {
                "options": options,
                "gradient_checkpointing": kept,
                "forecast_bytes": foreseen,
                "peak_memory_bytes": done["peak_memory_bytes"],
                "reserved_bytes": done["reserved_bytes"],
                # What a process on a CPU takes is mostly its libraries.
                "error_percent": None if tiny else round(100 * (foreseen / done["peak_memory_bytes"] - 1), 1),
                "parts": parts,
            }
        )
    return {"rows": rows, "worst_percent": None if tiny else max((row["error_percent"] for row in rows), key=abs)}


def seven(folder: Path, tiny: bool) -> dict[str, Any]:
    """A QLoRA over a base in the shape of Llama-2-7B on a card that has 8 GB for it."""
    base, share = folder / _bigger(tiny), _share(SEVEN_BYTES, tiny)
    options = {
        "method": "qlora",
        "targets": "all-linear",
        "batch_size": 1,
        "max_length": 512,
        "max_steps": 8,
        "lr": 2e-4,
    }
    done = _train(base, folder / "uneven.jsonl", folder / "seven", options, share=share)
    return {
        name: done[name] for name in ("loss", "tokens_per_s", "train_s", "peak_memory_bytes", "reserved_bytes", "said")
    } | {"limit_bytes": SEVEN_BYTES, "gradient_checkpointing": done["training"]["gradient_checkpointing"]}


def _share(size_bytes: int, tiny: bool) -> float:
    """Return what share of the card so many bytes are; all of it for tiny bases."""
    import torch

    return 1.0 if tiny else size_bytes / int(torch.cuda.get_device_properties(0).total_memory)


def ladder(folder: Path, tiny: bool) -> dict[str, Any]:
    """Let memory run out, and compare what was learnt with less computed at once with what was learnt with room."""
    base, data = folder / _smaller(tiny), folder / "uneven.jsonl"
    options = {"batch_size": 64, "grad_accum": 1, "max_length": 1024, "max_steps": 2, "lr": 5e-4, "dropout": 0.0}
    narrow = _train(base, data, folder / "narrow", options, share=_share(LADDER_BYTES, tiny))
    wide = _train(base, data, folder / "roomy", options)
    return {
        "memory_steps": narrow["training"].get("memory_steps"),
        "with_room": wide["training"].get("memory_steps"),
        "losses": [narrow["loss"], wide["loss"]],
        "peak_memory_bytes": [narrow["peak_memory_bytes"], wide["peak_memory_bytes"]],
        **_difference(folder / "narrow", folder / "roomy"),
    }


def resume(folder: Path, tiny: bool) -> dict[str, Any]:
    """SIGKILL once a checkpoint is on disk, go on in a new process, and compare with a training that was left alone."""
    base, data = folder / _smaller(tiny), folder / "uneven.jsonl"
    options = {"rank": 8, "max_steps": 6, "lr": 5e-4, "batch_size": 2, "grad_accum": 2}
    whole, broken = folder / "whole", folder / "broken"
    _train(base, data, whole, options, every=2)
    command = [sys.executable, "-c", _TRAIN, base, data, broken, json.dumps(options), 2, "", 1.0]
    environment = {**os.environ, "PYTHONPATH": _path(), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        [str(each) for each in command], stdout=subprocess.PIPE, text=True, env=environment
    ) as victim:
        assert victim.stdout is not None
        line = next((line for line in victim.stdout if line.startswith("checkpoint ")), None)
        victim.kill()
    if line is None:
        raise SystemExit("the training ended before its first checkpoint")
    done = _train(base, data, broken, options, every=2, resume=Path(line.split(maxsplit=1)[1].strip()))
    return {"resumed_from_step": done["resumed_from_step"], **_difference(whole, broken)}


def _difference(first: Path, second: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    largest = max(float((one[name].double() - other[name].double()).abs().max()) for name in one)
    return {"same_bytes": largest == 0.0, "largest_difference": largest}


def evaluate_and_merge(folder: Path, tiny: bool) -> dict[str, Any]:
    """Score a trained adapter over the base, merge it, and score the merged model, which is read back from its files."""
    from benchmarks import pipelines
    from sdk.schemas.evaluation import EvaluationSpec
    from sdk.schemas.lora_config import QuantizationRecipe

    base, adapter, data = folder / _smaller(tiny), folder / "speed-0", folder / "held-out.jsonl"
    spec = EvaluationSpec(generate_rows=4)

    def score(model: Path, beside: Path | None, recipe: QuantizationRecipe | None) -> dict[str, Any]:
        report = pipelines.score(model, data, beside, spec, quantization=recipe)
        return {name: report.metrics.get(name) for name in ("loss", "rouge_l", "eval_s", "peak_memory_bytes")}

    recipe = QuantizationRecipe()
    found: dict[str, Any] = {"base": score(base, None, recipe), "adapter": score(base, adapter, recipe)}
    begun = time.perf_counter()
    merged = pipelines.merge(base, adapter, folder / "merged", quantization=recipe)
    found["merge"] = {"seconds": round(time.perf_counter() - begun, 1), "metrics": merged.metrics}
    found["merged"] = score(folder / "merged", None, None)
    return found


PARTS: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    each.__name__: each for each in (bases, speed, forecast, seven, ladder, resume, evaluate_and_merge, steps)
}


if __name__ == "__main__":
    main()
