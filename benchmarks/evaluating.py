"""Eight adapters over one base scored on 16 rows in one job, beside eight jobs that load the base each, and eight runs of a plain script.

    python benchmarks/evaluating.py [CACHE ROUNDS]

Every job is a process of its own, as a worker starts it. What a further adapter takes is the time of its evaluation within the one
job, without that of its own rows in the model: taking the last adapter off, the check that the base is as it was, putting the
next one on, the general texts, writing its rows. The script is what is written for one adapter by hand, with transformers and PEFT: it loads
the base, puts the adapter on and prints the loss of the rows, in one pass, and nothing of general texts.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from startup import Row
from training import example

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec
from sdk.schemas.wire import read_json
from workers.child.protocol import ORDER_FILE, RESULT_FILE
from workers.pipelines.orders import EvaluationItem, EvaluationOrder, EvaluationScores

ROOT = Path(__file__).resolve().parent.parent
ADAPTERS = 8
ROUNDS = 2
TARGET_RATIO = 4.0
TARGET_S = 0.5
#: Fixed: each row has at most 64 tokens of SmolLM2's, and `_rows` says so where one has more.
MOST_TOKENS = 64
ROWS = (
    ("def add(a, b):\n    return a + b\n", "Return the sum of two numbers."),
    ("def is_even(n):\n    return n % 2 == 0\n", "Tell whether a number is even."),
    ("def last(items):\n    return items[-1]\n", "Return the last item of a sequence."),
    ("def greet(name):\n    return f'Hello, {name}!'\n", "Return a greeting for a person of this name."),
    ("def area(r):\n    return 3.14159 * r * r\n", "Return the area of a circle of radius r."),
    ("def words(text):\n    return text.split()\n", "Split a text at white space into a list of words."),
    ("def clamp(x, low, high):\n    return max(low, min(x, high))\n", "Limit a number to the range from low to high."),
    ("def flat(lists):\n    return [x for one in lists for x in one]\n", "Join a list of lists into one list."),
    ("def count(text, sign):\n    return sum(c == sign for c in text)\n", "Count how often a sign occurs in a text."),
    ("def invert(d):\n    return {v: k for k, v in d.items()}\n", "Swap the keys and values of a dict."),
    ("def mean(xs):\n    return sum(xs) / len(xs)\n", "Return the arithmetic mean of some numbers."),
    ("def rev(s):\n    return s[::-1]\n", "Return a text backwards."),
    ("def read(path):\n    with open(path) as f:\n        return f.read()\n", "Return all text of a file."),
    ("def fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n", "Return the nth Fibonacci number."),
    ("def uniq(xs):\n    return list(dict.fromkeys(xs))\n", "Drop repeated items and keep the order of the others."),
    ("def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a\n", "Return the greatest common divisor of two numbers."),
)  # fmt: skip

_ADAPTERS = """
import sys, torch
from pathlib import Path
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
base, out, rows, most, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
import json
tokenizer = AutoTokenizer.from_pretrained(base)
longest = max(len(tokenizer(row["prompt"] + row["completion"])["input_ids"]) + 1 for row in map(json.loads, open(rows)))
assert longest <= most, f"a row has {longest} tokens"
model = AutoModelForCausalLM.from_pretrained(base)
for seed in range(count):
    torch.manual_seed(seed)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(out / str(seed))
    path = out / str(seed) / "adapter_config.json"
    said = json.loads(path.read_text())
    said.pop("megatron_core", None)
    path.write_text(json.dumps(said))
    model = model.unload()
    vars(model).pop("peft_config", None)
"""


_SCRIPT = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, rows = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter).eval()
examples = []
for row in map(json.loads, open(rows)):
    prompt = tokenizer(row["prompt"])["input_ids"]
    said = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
    examples.append((prompt + said, [-100] * len(prompt) + said))
longest = max(len(ids) for ids, _ in examples)
ids = torch.tensor([ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in examples])
labels = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in examples])
with torch.no_grad():
    logits = model(input_ids=ids).logits[:, :-1].float()
print(float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())))
"""


@dataclass(frozen=True)
class Job:
    """One evaluation in a process of its own."""

    #: From the start of the process to its end.
    wall_s: float
    #: Of all its threads.
    processor_s: float
    reports: list[EvaluationReport]


def run(cache: Path | None = None, rounds: int = ROUNDS) -> list[Row]:
    """Score all adapters in one job, and each in its own, in turn; the median of the rounds counts."""
    cache = cache or Path(tempfile.gettempdir()) / "adapterctl-benchmarks"
    base = example("base").make_base(cache)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        rows = _rows(scratch / "rows.jsonl")
        made = [str(ROOT), str(base), str(scratch / "adapters"), str(rows), str(MOST_TOKENS), str(ADAPTERS)]
        subprocess.run([sys.executable, "-c", _ADAPTERS, *made[1:]], check=True, cwd=ROOT)
        adapters = [scratch / "adapters" / str(number) for number in range(ADAPTERS)]
        together: list[Job] = []
        apart: list[list[Job]] = []
        scripts: list[float] = []
        for number in range(rounds):
            together.append(_job(scratch / f"{number}", base, rows, adapters))
            apart.append(
                [_job(scratch / f"{number}-{at}", base, rows, [adapter]) for at, adapter in enumerate(adapters)]
            )
            begun = time.perf_counter()
            losses = [_plain(base, rows, adapter) for adapter in adapters]
            scripts.append(time.perf_counter() - begun)
            # In bfloat16, and padded otherwise.
            assert all(
                abs(loss - _loss(one)[0]) < 0.02 * loss for loss, one in zip(losses, together[-1].reports, strict=True)
            )
    for job, others in zip(together, apart, strict=True):
        # The same numbers, or there is nothing to compare.
        assert [_loss(one) for one in job.reports] == [_loss(one) for other in others for one in other.reports]
    ours = statistics.median(job.wall_s for job in together)
    theirs = statistics.median(sum(job.wall_s for job in jobs) for jobs in apart)
    ours_processor = statistics.median(job.processor_s for job in together)
    theirs_processor = statistics.median(sum(job.processor_s for job in jobs) for jobs in apart)
    further = [report.metrics for job in together for report in job.reports[1:]]
    beyond = statistics.median(one["eval_s"] - one["tokens"] / one["tokens_per_s"] for one in further)
    own = statistics.median(one["tokens"] / one["tokens_per_s"] for one in further)
    general = statistics.median(one["general_s"] for one in further)
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    note = f"SmolLM2-135M in bf16, r=8 attention, {len(ROWS)} rows of ≤ {MOST_TOKENS} tokens, median of {rounds}; load {load}"
    return [
        {
            "what": f"{ADAPTERS} adapters in one job, beside {ADAPTERS} jobs",
            "ours": f"{ours:.1f} s",
            "peer": f"{theirs:.1f} s",
            "ratio": f"{theirs / ours:.2f} (≥ {TARGET_RATIO:.0f})",
            "note": note,
        },
        {
            "what": f"{ADAPTERS} adapters in one job, beside {ADAPTERS} runs of a plain script",
            "ours": f"{ours:.1f} s",
            "peer": f"{statistics.median(scripts):.1f} s",
            "ratio": f"{statistics.median(scripts) / ours:.2f} (≥ {TARGET_RATIO:.0f})",
            "note": "transformers and PEFT: loads the base, puts an adapter on, prints the loss of the same rows; nothing of general texts",
        },
        {
            # Which other work on the machine changes less.
            "what": "the same in seconds of processor",
            "ours": f"{ours_processor:.1f} s",
            "peer": f"{theirs_processor:.1f} s",
            "ratio": f"{theirs_processor / ours_processor:.2f}",
            "note": note,
        },
        {
            "what": "each further adapter, beyond its own tokens",
            "ours": f"{beyond:.2f} s (≤ {TARGET_S})",
            "peer": f"{own:.2f} s its own tokens",
            "ratio": "–",
            "note": f"{general:.2f} s of it on the general texts ({further[0]['general_tokens']:.0f} tokens)",
        },
    ]


def _processor_s() -> float:
    """What the children that have ended took of the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _loss(report: EvaluationReport) -> tuple[float, ...]:
    return tuple(report.metrics[name] for name in ("loss", "general_loss", "general_kl"))


def _rows(path: Path) -> Path:
    path.write_text("".join(json.dumps({"prompt": prompt, "completion": said}) + "\n" for prompt, said in ROWS))
    return path


def _plain(base: Path, rows: Path, adapter: Path) -> float:
    command = [sys.executable, "-c", _SCRIPT, str(base), str(adapter), str(rows)]
    return float(subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout)


def _job(folder: Path, base: Path, rows: Path, adapters: list[Path]) -> Job:
    """Carry out an evaluation as a worker's child does."""
    folder.mkdir()
    items = [
        EvaluationItem(
            base=base,
            adapter=adapter,
            quantization=None,
            template_date="2026-01-01",
            stop_ids=[],
            labels=None,
        )
        for adapter in adapters
    ]
    spec = EvaluationSpec(generate_rows=0, precision="native")
    (folder / ORDER_FILE).write_text(EvaluationOrder(items=items, data=rows, spec=spec).model_dump_json())
    begun, spent = time.perf_counter(), _processor_s()
    command = [sys.executable, "-m", "workers.child.main", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    wall_s = time.perf_counter() - begun
    found = read_json(EvaluationScores, (folder / RESULT_FILE).read_bytes())
    return Job(wall_s, _processor_s() - spent, [one for one in found.outcomes if isinstance(one, EvaluationReport)])


if __name__ == "__main__":
    for row in run(Path(sys.argv[1]) if len(sys.argv) > 1 else None, *map(int, sys.argv[2:])):
        print(row)
