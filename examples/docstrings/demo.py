"""The main job, for real: train, evaluate, merge, pull and check an adapter that writes docstrings.

    make demo

It uses the `adapterctl` of the environment that it runs in, and the registry of `ADAPTERCTL_URL`, by default the
folder ~/.adapterctl. Nothing needs to be started before.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from base import make_base
from dataset import write_dataset
from rich.console import Console
from rich.table import Table

import sdk
from sdk.config import cache_path, load

ADAPTER = "docstring-writer"
OUT = Path("build/demo")
#: 20 optimiser steps of 16 rows: one pass over the 320 training rows.
TRAINING = ("--epochs", "1", "--lr", "5e-4", "--batch-size", "4", "--grad-accum", "4", "--max-length", "512")
EVALUATION = ("--only", "--generate-rows", "16", "--max-new-tokens", "24", "--keep-samples", "3")

console = Console(stderr=True)


def main() -> int:
    """Run every step; return 0 where all checks hold."""
    started = time.monotonic()
    adapterctl = Path(sys.executable).with_name("adapterctl")
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)

    _step(1, "a real base: SmolLM2-135M-Instruct")
    base = make_base(cache_path() / "examples")
    console.print(f"  {base}")

    _step(2, "a real dataset: functions of the standard library → first line of their docstring")
    train, heldout = write_dataset(OUT)
    console.print(f"  {_count(train)} rows to train on, {_count(heldout)} held out, split by module")

    _step(3, "QLoRA training (NF4, double quantisation)")
    trained = _json(adapterctl, "train", ADAPTER, "--base", base, "--data", train, "--eval-data", heldout, *TRAINING)
    ref = trained["ref"]

    _step(4, f"evaluation of the bare base and of {ref} on the held-out rows")
    scores = _json(adapterctl, "eval", f"base:{base.name}", ref, "--data", heldout, *EVALUATION)
    _show_samples(scores)

    _step(5, "merge, pull, and a check with plain PEFT")
    merged = _json(adapterctl, "merge", ref, "-o", OUT / "merged")
    pulled = _json(adapterctl, "pull", ref, "-o", OUT / "adapter")
    shown = _json(adapterctl, "show", ref)
    check = _json(sys.executable, Path(__file__).with_name("check.py"), base, pulled["path"], merged["path"])

    curve = sdk.plot(trained["job"]).save(OUT / "loss.png")
    _step(6, f"done in {time.monotonic() - started:.0f} s")
    _show_results(shown, scores, merged, check, base, curve)
    before, after = (score["metrics"]["loss"] for score in scores)
    ok = after < 0.9 * before and check["changes_base"] and check["merged_agrees"]
    if not ok:
        console.print("[bold red]a check failed:[/] the held-out loss must fall by 10 % and the logits must agree")
    return 0 if ok else 1


def _step(number: int, text: str) -> None:
    console.print(f"\n[bold]{number}/6[/] {text}")


def _json(*command: object) -> Any:
    """Run a command whose progress goes to our stderr, and return the JSON document that it printed."""
    arguments = [str(part) for part in command]
    if Path(arguments[0]).name == "adapterctl":
        shown = " ".join(["adapterctl", *(_shorten(part) for part in arguments[1:])])
        console.print(f"  [dim]$ {shown}[/]", soft_wrap=True, highlight=False)
        arguments += ["--format", "json"]
        done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=False)
    else:
        # The libraries' own talk is shown only where something went wrong.
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.stderr.write(done.stderr or "")
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def _shorten(text: str) -> str:
    home = str(Path.home())
    return "~" + text.removeprefix(home) if text.startswith(home + os.sep) else text


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _show_samples(scores: list[dict[str, Any]]) -> None:
    bare, tuned = scores
    table = Table("function", "expected", "bare base", ADAPTER, title="generated, side by side", show_lines=True)
    for before, after in zip(bare["samples"], tuned["samples"], strict=True):
        signature = next(
            (line.strip() for line in before["prompt"].splitlines() if line.strip().startswith("def ")), ""
        )
        table.add_row(
            *(_clean(text) for text in (signature, before["reference"], before["completion"], after["completion"]))
        )
    console.print(table)


def _clean(text: str) -> str:
    return " ".join(text.split()).replace("[", "\\[")[:120]


def _show_results(
    shown: dict[str, Any],
    scores: list[dict[str, Any]],
    merged: dict[str, Any],
    check: dict[str, Any],
    base: Path,
    curve: Path,
) -> None:
    before, after = (score["metrics"] for score in scores)
    metrics = shown["metrics"]
    adapter_bytes = sum(file["size_bytes"] for file in shown["files"])
    base_bytes = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    table = Table("", "bare base", shown["ref"], title=f"{shown['ref']} over {shown['base']['id']}")
    table.add_row(
        "held-out loss", f"{before['loss']:.3f}", f"{after['loss']:.3f} ({after['loss'] / before['loss'] - 1:+.0%})"
    )
    table.add_row("perplexity", f"{before['perplexity']:.1f}", f"{after['perplexity']:.1f}")
    table.add_row("ROUGE-L", f"{before['rouge_l']:.3f}", f"{after['rouge_l']:.3f}")
    table.add_row(
        "size", f"{base_bytes / 1e6:.1f} MB", f"{adapter_bytes / 1e6:.1f} MB ({adapter_bytes / base_bytes:.1%})"
    )
    table.add_row("training", "", f"{metrics['train_s']:.0f} s, {metrics['tokens_per_s']:.0f} tokens/s")
    table.add_row("peak memory", "", f"{metrics['peak_memory_bytes'] / 1e9:.2f} GB")
    table.add_row("plain PEFT", "", f"loads, moves logits by up to {check['max_shift']:.2f}")
    table.add_row(
        "merged",
        f"onto {merged['report']['onto']}",
        f"{check['kl']:.4f} nats/token from base + adapter, top-1 {check['top1']:.1%}",
    )
    console.print(table)
    for name, place in (
        ("registry", load().url),
        ("adapter", OUT / "adapter"),
        ("merged model", OUT / "merged"),
        ("base", base),
        ("loss curve", curve),
    ):
        console.print(f"  {name:<13}{_shorten(str(place))}", soft_wrap=True, highlight=False)
    script = Path(sys.executable).with_name("adapterctl")
    adapterctl = script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script
    console.print("\nTry next:")
    for command in (
        f"show {shown['ref']}",
        f"alias set {ADAPTER} production {shown['ref'].split('@')[1]}",
        "jobs list",
    ):
        console.print(f"  {adapterctl} {command}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
