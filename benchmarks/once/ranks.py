"""Ranks 8, 4 and 16 of `docstring-writer`, trained alike, scored in one job, and compared: what docs/evaluation.md shows.

    python -m benchmarks.once.ranks OUT [CACHE [OPTIONS…]]

prints the commands with what they print; OPTIONS go to each training, such as --max-steps 8. Rank 8, the default, is in
production, so that the job scores it beside the others, as it does the bare base. The registry is the folder OUT/registry,
and OUT/log has what the commands say of their progress.

Its figures in docs/evaluation.md are of 2026-11-27.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.training import example

ADAPTER = "docstring-writer"
#: The first becomes v1, and is promoted.
RANKS = (8, 4, 16)
#: 16 rows a step; the learning rate of the demo.
TRAINING = ("--lr", "5e-4", "--batch-size", "4", "--grad-accum", "4", "--max-length", "512", "--method", "lora")
EVALUATION = ("--generate-rows", "48", "--max-new-tokens", "24", "--keep-samples", "1", "--batch-size", "8")


def main() -> int:
    """Run every command; return the exit code of the first that fails."""
    out = Path(sys.argv[1]).resolve()
    cache, options = Path(sys.argv[2]) if len(sys.argv) > 2 else out / "cache", sys.argv[3:]
    out.mkdir(parents=True, exist_ok=True)
    base = cache if (cache / "config.json").is_file() else example("base").make_base(cache)
    train, heldout = example("dataset").write_dataset(out)
    for rank in RANKS:
        _run(out, "train", ADAPTER, "--base", str(base), "--data", train.name, "--rank", str(rank), *TRAINING, *options)
    _run(out, "promote", f"{ADAPTER}@v1", "production")
    others = [f"{ADAPTER}@v{number}" for number in range(2, len(RANKS) + 1)]
    _run(out, "eval", *others, "--data", heldout.name, *EVALUATION)
    every = [f"{ADAPTER}@v{number}" for number in range(1, len(RANKS) + 1)]
    _run(out, "compare", f"base:{base.name}", *every)
    _run(out, "compare", *every, "--metric", "rouge_l")
    _run(out, "compare", *every, "--detect", "0.01")
    return 0


def _run(out: Path, *arguments: str) -> None:
    """Run `adapterctl` in the folder `out`; end with its exit code where that isn't 0."""
    begun = time.monotonic()
    print("$", "adapterctl", *arguments, flush=True)
    places = {"ADAPTERCTL_URL": f"local:{out / 'registry'}", "ADAPTERCTL_CACHE": str(out / "cached")}
    environment = {**os.environ, **places, "COLUMNS": "80"}
    script = Path(sys.executable).with_name("adapterctl")
    with (out / "log").open("a") as log:
        done = subprocess.run([script, *arguments], cwd=out, env=environment, stderr=log)
    print(f"# {time.monotonic() - begun:.0f} s\n", flush=True)
    if done.returncode != 0:
        sys.exit(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
