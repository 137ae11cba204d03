"""Summed log-likelihoods beside lm-evaluation-harness on SmolLM2 with an adapter: whether they are the same, and how fast.

    python benchmarks/log_likelihoods.py [CACHE ROUNDS]

Both score the same rows over the same float32 weights in batches of as many rows, in processes of their own and in turn: pairs of
prompt and completion, whose loss is ours, and questions with four choices each. lm-eval is installed into an environment of its
own, which shares torch with this one.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from typing import Any

import torch
from merged_text import in_float32
from startup import ROOT, Row

from examples.docstrings.base import make_base
from examples.docstrings.dataset import write_dataset

LM_EVAL = "lm-eval==0.4.13"
ROWS = 16
CHOICES = 4
#: Of a prompt its end, and of a completion its beginning: at most some 64 tokens together.
PROMPT_CHARACTERS, COMPLETION_CHARACTERS = 120, 60
BATCH_SIZE = 4
ROUNDS = 3
#: How far sums may be apart, in nats.
TOLERANCE = 1e-4
_PEER = ROOT / "build" / "lm-eval"
_OURS = """
import json, sys, time
from pathlib import Path
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.row_file import read_rows, row_file_name
from workers.pipelines.model.shared_base import SharedBase
from workers.pipelines.scoring import language_model
from benchmarks.pipelines import score
real, spent, said, bases = language_model.example_token_losses, {}, {}, SharedBase()
def timed(*given):
    started = time.perf_counter(), time.process_time()
    yield from real(*given)
    spent.update(forward_s=time.perf_counter() - started[0], processor_s=time.process_time() - started[1])
language_model.example_token_losses = timed
base, adapter, out, rows, *files = sys.argv[1:]
for data in map(Path, files):
    spec = EvaluationSpec(generate_rows=0, batch_size=int(rows))
    report = score(Path(base), data, Path(adapter), spec, Path(out), bases=bases)
    with (Path(out) / row_file_name(report.rows.digest)).open("rb") as file:
        found = [[row.loss_sum, row.prediction] for row in read_rows(file)]
    said[data.stem] = {"rows": found, "tokens": report.metrics["tokens"], **spent}
print(json.dumps(said))
"""


def run(cache: Path | None = None, rounds: int = ROUNDS) -> list[Row]:
    """Score pairs and questions by both, `rounds` times in turn."""
    cache = cache or Path(tempfile.gettempdir()) / "adapterctl-benchmarks"
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        base = in_float32(make_base(cache), Path(scratch) / "base")
        adapter = _adapter(base, Path(scratch) / "adapter")
        pairs, questions = _rows(cache)
        rows = {"completions": pairs, "choices": questions}
        end = _end_of_text(base)
        asked = {
            "completions": [(row["prompt"], row["completion"] + end) for row in pairs],
            "choices": [(row["prompt"], choice) for row in questions for choice in row["choices"]],
        }
        files = [adapter.parent / f"{kind}.jsonl" for kind in rows]
        for file, kind in zip(files, rows, strict=True):
            file.write_text("".join(json.dumps(row) + "\n" for row in rows[kind]), encoding="utf-8")
        order = json.dumps({"base": str(base), "adapter": str(adapter), "batch_size": BATCH_SIZE, "kinds": asked})
        ours, peer = [], []
        for _ in range(rounds):
            ours.append(_output([sys.executable, "-c", _OURS, base, adapter, adapter.parent, BATCH_SIZE, *files]))
            peer.append(_output([lm_eval_python(), ROOT / "benchmarks" / "lm_eval_peer.py"], order)["kinds"])
    return [
        row
        for kind in rows
        for row in _beside(kind, rows[kind], [one[kind] for one in ours], [one[kind] for one in peer])
    ]


def _beside(kind: str, rows: list[dict[str, Any]], ours: list[dict[str, Any]], peer: list[dict[str, Any]]) -> list[Row]:
    texts, apart = len(peer[0]["log_likelihoods"]), _apart(rows, ours[0]["rows"], peer[0]["log_likelihoods"])
    if ours[0]["tokens"] != peer[0]["tokens"]:
        raise SystemExit(f"of other tokens: {ours[0]['tokens']} and {peer[0]['tokens']}")
    note = (
        f"{texts} texts of {ours[0]['tokens'] / texts:.0f} tokens, SmolLM2-135M in float32 with a random adapter, batches of"
        f" {BATCH_SIZE}; peer: {LM_EVAL}, its forward passes alone; median of {len(ours)} interleaved"
    )

    def speed(unit: str, name: str) -> Row:
        mine, theirs = (statistics.median(one["tokens"] / one[name] for one in each) for each in (ours, peer))
        return {
            "what": f"log-likelihoods of {kind}, tokens/{unit} (target 1.0 ×)",
            "ours": round(mine, 1),
            "peer": round(theirs, 1),
            "ratio": round(mine / theirs, 2),
            "note": note,
        }

    return [
        speed("s", "forward_s"),
        # Which other work on the machine changes less.
        speed("s of processor", "processor_s"),
        {
            "what": f"log-likelihoods of {kind}, sums at most apart, nats (target {TOLERANCE})",
            "ours": f"{apart:.1e}",
            "peer": "-",
            "ratio": "-",
            "note": note,
        },
    ]


def _apart(rows: list[dict[str, Any]], ours: list[Any], theirs: list[float]) -> float:
    """Return how far sums are apart at most; of questions those of the right choices, and both choose the same."""
    if "choices" not in rows[0]:
        return max(float(abs(mine + other)) for (mine, _), other in zip(ours, theirs, strict=True))
    apart = 0.0
    for number, (row, (mine, chosen)) in enumerate(zip(rows, ours, strict=True)):
        found = theirs[number * CHOICES : (number + 1) * CHOICES]
        if row["choices"][found.index(max(found))] != chosen:
            raise SystemExit(f"question {number} is answered otherwise: {found}")
        apart = max(apart, abs(mine + found[row["answer"]]))
    return apart


def _rows(cache: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return pairs, and questions whose choices are the completions of other rows; no prompt ends in a blank, which lm-eval moves."""
    _, heldout = write_dataset(cache / "docstrings")
    given = [json.loads(line) for line in heldout.open(encoding="utf-8")][:ROWS]
    pairs = [
        {
            "prompt": row["prompt"].rstrip()[-PROMPT_CHARACTERS:],
            "completion": f" {row['completion'].strip()[:COMPLETION_CHARACTERS]}",
        }
        for row in given
    ]
    texts = [row["completion"] for row in pairs]
    questions = [
        {
            "prompt": row["prompt"],
            "choices": [texts[(number + more) % len(texts)] for more in range(CHOICES)],
            "answer": 0,
        }
        for number, row in enumerate(pairs[: ROWS // 2])
    ]
    return pairs, questions


def _end_of_text(base: Path) -> str:
    from transformers import AutoTokenizer

    return str(AutoTokenizer.from_pretrained(base).eos_token)


def _adapter(base: Path, to: Path) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(
        r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(to)
    said = json.loads((to / "adapter_config.json").read_text())
    # It names a module that could be imported, so our workers refuse it.
    del said["megatron_core"]
    (to / "adapter_config.json").write_text(json.dumps(said))
    return to


def lm_eval_python() -> Path:
    """Return the Python of an environment with lm-eval, made once, that finds everything else in this one's."""
    python = _PEER / "bin" / "python"
    done = _PEER / "installed"
    if not done.exists():
        venv.create(_PEER, with_pip=True, clear=True)
        site = Path(sysconfig.get_path("purelib", vars={"base": str(_PEER), "platbase": str(_PEER)}))
        (site / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        subprocess.run([python, "-m", "pip", "install", "--quiet", LM_EVAL], check=True)
        done.touch()
    return python


def _output(command: list[Any], given: str = "") -> Any:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    ran = subprocess.run(
        list(map(str, command)), input=given, env=environment, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise SystemExit(ran.stderr[-2000:])
    return json.loads(ran.stdout.splitlines()[-1])


if __name__ == "__main__":
    for row in run(Path(sys.argv[1]) if len(sys.argv) > 1 else None, *map(int, sys.argv[2:])):
        print(row)
