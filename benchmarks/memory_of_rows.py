"""How much memory rows take on their way into a training, against the size of their file.

    python -m benchmarks.memory_of_rows --megabytes 100 1000
    python -m benchmarks.memory_of_rows --megabytes 10000 --steps submit training --tokenizer words --scratch /var/tmp

Each step runs in a process of its own, over a file that is written for it: what a submit checks ("submit"), `data add` to a
registry in a folder ("add"), the audit ("audit"), the signatures ("signatures"), and a training of five steps over a tiny base
("training"; "holdout" holds a hundredth out). Printed are the most resident memory, what of it is Python's and the libraries', and the
seconds. Rows are prompts and answers of random words, of some 600 bytes. Most of the time goes into the byte-level tokenizer of the base: with `--tokenizer words` rows are 40 words of 60 to 90
letters, some 3,000 bytes, and each word is a token. It needs 5 times the largest size on the disk that `--scratch` is on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import runpy
import shutil
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

STEPS = ("submit", "add", "audit", "signatures", "training", "holdout")
_WORDS = 20_000
#: Of rows that cost no memory.
_FEW_BYTES = 150_000
#: The file itself, its tokens, and what the signatures and the audit put beside them.
_DISK_OF_10_GB = 60 * 1000**3


class _Kind(NamedTuple):
    """Letters of a word, least and most, and words of a prompt and of a completion."""

    letters: tuple[int, int]
    prompt: int
    completion: int


_SHORT, _LONG = _Kind((2, 9), 40, 45), _Kind((60, 90), 20, 20)
_MAKE = Path(__file__).parents[1] / "examples" / "tiny" / "make.py"


def main() -> None:
    """Print the figures as JSON, a line for each step and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--tokenizer", choices=("bytes", "words"), default="bytes")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        _run(given.child[0], Path(given.child[1]))
        return
    for found in _each(given.scratch, given.megabytes, given.steps, words=given.tokenizer == "words"):
        print(json.dumps(found), flush=True)


def run() -> list[dict[str, Any]]:
    """Return a row for each step and size: 100 MB and 1 GB, and 10 GB of what a training needs of them where 60 GB of disk are free."""
    scratch = Path(tempfile.gettempdir())
    found = list(_each(scratch, [100, 1000], STEPS))
    if shutil.disk_usage(scratch).free >= _DISK_OF_10_GB:
        found += _each(scratch, [10_000], ("submit", "training"), words=True)
    return [
        {
            "what": f"{each['step']} of {each['file_mb']:,} MB, peak MB",
            "ours": each["peak_rss_mb"],
            "peer": each["idle_rss_mb"],
            "ratio": round(each["idle_rss_mb"] / each["peak_rss_mb"], 2),
            "note": f"{each['rows']:,} rows, {each['wall_s']} s, in a process of its own; peer: the same without a row",
        }
        for each in found
    ]


def _each(
    scratch: Path, sizes: Sequence[int], steps: Sequence[str], *, words: bool = False
) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(dir=scratch, prefix="adapterctl-rows-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, _MAKE, folder], check=True, stdout=subprocess.DEVNULL)
        if words:
            # A child's most memory is never less than its parent's, so the libraries are loaded in another.
            _measured("words", folder)
            _write(folder / "train.jsonl", _FEW_BYTES, _LONG)
        before, os.environ["TMPDIR"] = os.environ.get("TMPDIR"), name
        try:
            for megabytes in sizes:
                rows = _write(folder / "rows.jsonl", megabytes * 1000**2, _LONG if words else _SHORT)
                for step in steps:
                    idle = _measured("idle-" + step, folder)["peak_rss_mb"]
                    yield {
                        "step": step,
                        "file_mb": megabytes,
                        "rows": rows,
                        "idle_rss_mb": idle,
                        **_measured(step, folder),
                    }
        finally:
            os.environ.pop("TMPDIR")
            if before is not None:
                os.environ["TMPDIR"] = before


def _measured(step: str, folder: Path) -> dict[str, Any]:
    """Run one step in a process of its own; return its most resident memory and its time."""
    begun = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "benchmarks.memory_of_rows", "--child", step, folder])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{step} failed")
    return {"peak_rss_mb": round(usage.ru_maxrss * 1024 / 1e6), "wall_s": round(time.perf_counter() - begun, 1)}


def _run(step: str, folder: Path) -> None:
    if step == "words":
        _know_words(folder / "tiny-llama")
        return
    idle, data = step.startswith("idle-"), folder / "rows.jsonl"
    match step.removeprefix("idle-"):
        case "submit":
            from sdk.validation import check_data

            if not idle:
                check_data(data)
        case "add":
            from sdk.client import Client

            client = Client(f"local:{folder / 'registry'}", cache=folder / "cache")
            client.datasets.add(folder / "train.jsonl" if idle else data)
            client.close()
        case "audit":
            from sdk.rows.audit import audit_rows

            if not idle:
                audit_rows(data, label="")
        case "signatures":
            from sdk.rows.signature_file import make_signatures

            if not idle:
                make_signatures(data, folder / "signatures")
        case name:
            _train(folder, holdout=0.01 if name == "holdout" else None, data=folder / "train.jsonl" if idle else data)


def _train(folder: Path, *, data: Path, holdout: float | None) -> None:
    from sdk.schemas.training import TrainingSpec
    from workers.pipelines.training import train as training

    # The audit is a step of its own.
    vars(training)["audit"] = lambda *_given: {}
    training.train(
        base=folder / "tiny-llama",
        base_name="tiny",
        base_revision=None,
        data=data,
        eval_data=None,
        out=folder / f"out-{os.getpid()}",
        spec=TrainingSpec(
            method="lora", rank=4, targets="qv", max_steps=5, batch_size=4, grad_accum=1, holdout=holdout
        ),
        on_progress=lambda _progress: None,
    )


def _write(path: Path, size_bytes: int, kind: _Kind) -> int:
    """Write rows of so many bytes together; return how many."""
    rows = written = 0
    with path.open("w") as file:
        for row in _rows(kind):
            written += file.write(row)
            rows += 1
            if written >= size_bytes:
                return rows
    raise AssertionError


def _know_words(base: Path) -> None:
    """Give a base a tokenizer to which each word of the rows is a token, and embeddings for as many."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    end, pad = "<|end|>", "<|pad|>"
    # A training looks at other texts as well, which are letters to it.
    pieces = [end, pad, *string.printable, *map("##{}".format, string.printable), *_words(_chosen(), _LONG)]
    known = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(known, unk_token=pad))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=pad)
    fast.save_pretrained(base)
    runpy.run_path(str(_MAKE))["save_llama"](base, len(fast))


def _chosen() -> random.Random:
    return random.Random(1)  # noqa: S311 - the same rows each time


def _words(chosen: random.Random, kind: _Kind) -> list[str]:
    return [
        "".join(chosen.choices("abcdefghijklmnopqrstuvwxyz", k=chosen.randint(*kind.letters))) for _ in range(_WORDS)
    ]


def _rows(kind: _Kind) -> Iterator[str]:
    chosen = _chosen()
    words = _words(chosen, kind)
    while True:
        prompt, completion = (
            " ".join(chosen.choices(words, k=kind.prompt)),
            " ".join(chosen.choices(words, k=kind.completion)),
        )
        yield f'{{"prompt": "{prompt} ", "completion": "{completion}"}}\n'


if __name__ == "__main__":
    main()
