"""Which rank to take for `docstring-writer`: rates on a coarse grid for each rank, then each rank with its rate and three seeds,
every training until its held-out loss has stopped; then all of them in every score of texts. What docs/sweeps.md shows.

    python -m benchmarks.once.sweep_ranks OUT rates
    python -m benchmarks.once.sweep_ranks OUT seeds --lr 1e-3
    python -m benchmarks.once.sweep_ranks OUT scores

prints the commands with what they print; options after the part go to the sweep. The registry is the folder OUT/registry, and
OUT/log has what the commands say of their progress. A part that was killed is begun again with its command; members that have
ended are not trained again if the sweep is looked at with `adapterctl sweep show ID --watch` instead. METEOR wants WordNet in
`ADAPTER_WORKER_WORDNET`.

The example's 320 rows are learnt; the first 200 held-out ones choose, its 48 among them, and 200 others tell how good the chosen is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.training import example

ADAPTER = "docstring-writer"
ROWS = 200
#: As the example has them, but for a rate that stays, so that no end of the steps is planned: 8 epochs at most, and the weights of the best look.
TRAINING = (
    *("--method", "lora", "--targets", "attention", "--batch-size", "4", "--grad-accum", "4", "--max-length", "512"),
    *("--schedule", "constant", "--epochs", "8", "--eval-every", "10", "--eval-rows", "48", "--patience", "3"),
    *("--rank", "1,4,16", "--parallel", "1"),
)
PARTS: dict[str, Sequence[str]] = {
    "rates": ("--lr", "3e-4,1e-3,3e-3", "--publish", "none"),
    "seeds": ("--seeds", "3", "--publish", "all", "--test-data", "test.jsonl"),
}
METRICS = "rouge_l,bleu,chrf,nist,meteor,cider_d"


def main() -> int:
    """Run a part; return the exit code of the first command that fails."""
    out, part, options = Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3:]
    out.mkdir(parents=True, exist_ok=True)
    base = example("base").make_base(out / "base")
    _write_rows(out)
    if part == "scores":
        every = [f"{ADAPTER}@v{number}" for number in range(1, 10)]
        _run(out, "eval", *every, "--data", "test.jsonl", "--metrics", METRICS, "--generate-rows", str(ROWS), *options)
        return 0
    data = ("--base", str(base), "--data", "train.jsonl", "--eval-data", "choose.jsonl")
    _run(out, "sweep", ADAPTER, *data, *TRAINING, *PARTS[part], *options)
    return 0


def _write_rows(out: Path) -> None:
    dataset = example("dataset")
    dataset.HELDOUT_ROWS = 2 * ROWS
    _, held_out = dataset.write_dataset(out)
    lines = held_out.read_text(encoding="utf-8").splitlines(keepends=True)
    (out / "choose.jsonl").write_text("".join(lines[:ROWS]), encoding="utf-8")
    (out / "test.jsonl").write_text("".join(lines[ROWS:]), encoding="utf-8")


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
