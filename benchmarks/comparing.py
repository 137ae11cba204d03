"""How long two versions with 100,000 rows each take to be compared, over HTTP, and what the server holds for it.

    python benchmarks/comparing.py [ROWS ROUNDS]

The peer is the script that people write: both files read with `json`, and a percentile bootstrap in a loop of numpy, of
as many draws, whose interval is too narrow on such rows; no test, no groups.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from adapters import seed
from servers import RegistryServer, registry_server
from startup import Row

from sdk.client import Client
from sdk.pulling.transfer import hash_file
from sdk.schemas.evaluation import Conditions, EvaluationReport, RowFile, RowScore
from sdk.schemas.jobs import JobView
from sdk.schemas.row_file import write_rows
from sdk.schemas.work import Assignment, ClaimRequest, Completion, EvaluationResult, WorkerInfo
from sdk.version import VERSION

ROWS = 100_000
ROUNDS = 5
#: Rows of one group.
GROUP_ROWS = 10
DRAWS = 1999
TARGET_S = 3.0
_CONDITIONS = Conditions(
    loss_on="completion", max_length=1024, generated_rows=2, max_new_tokens=48, stop_ids=[7], tokenizer="b" * 64
)
_COLUMNS = "prompt=prompt,completion=completion"


def run(rows: int = ROWS, rounds: int = ROUNDS) -> list[Row]:
    """Score two versions on so many rows, and compare them."""
    with registry_server() as server, tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        client = Client(server.url, server.tokens["admin"], cache=scratch / "cache")
        refs, files = _scored(client, scratch, rows)
        idle_bytes, spent_s = _resident_bytes(server), 0.0
        kinds = {
            "by the loss": {},
            "by ROUGE-L": {"metric": "rouge_l"},
            f"by the loss, {rows // GROUP_ROWS:,} groups": {"by": "repo"},
        }
        ours: dict[str, list[float]] = {kind: [] for kind in kinds}
        peer: list[float] = []
        for _ in range(rounds):
            for kind, asked in kinds.items():
                started, before_s = time.perf_counter(), _processor_s(server)
                found = client.compare(refs, **asked)  # type: ignore[arg-type]
                ours[kind].append(time.perf_counter() - started)
                spent_s += _processor_s(server) - before_s
                assert found.rows == rows
            started = time.perf_counter()
            _script(*files[: len(refs)])
            peer.append(time.perf_counter() - started)
        most_bytes = _resident_bytes(server, peak=True)
        client.close()
    spent = f"{spent_s / (rounds * len(kinds)):.2f} s of processor time"
    note = f"{spent}; peer: two files of JSON lines and a percentile bootstrap in numpy; {DRAWS} draws, over HTTP, median of {rounds} interleaved"
    found_rows = [
        _row(f"compare two versions with {rows:,} rows each {kind}, s (target {TARGET_S:g})", times, peer, note)
        for kind, times in ours.items()
    ]
    held = (most_bytes - idle_bytes) / 1e6
    return [
        *found_rows,
        {
            "what": "the same, MB that the server took more at its peak (target 500)",
            "ours": round(held, 1),
            "peer": "-",
            "ratio": "-",
            "note": f"resident, the process of {idle_bytes / 1e6:.0f} MB that took most",
        },
    ]


def _row(what: str, ours: list[float], peer: list[float], note: str) -> Row:
    median, other = statistics.median(ours), statistics.median(peer)
    return {
        "what": what,
        "ours": round(median, 2),
        "peer": round(other, 2),
        "ratio": round(other / median, 2),
        "note": note,
    }


def _scored(client: Client, scratch: Path, rows: int) -> tuple[list[str], list[Path]]:
    """Two versions that a worker has scored on the same rows, and the files of their scores."""
    seed(client, scratch)
    refs = ["bench@v1"]
    config = scratch / "bench" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 4', '"lora_alpha": 8'))
    refs.append(client.push(scratch / "bench", "bench", base="tiny").ref)
    data = scratch / "rows.jsonl"
    with data.open("w") as file:
        for row in range(rows):
            file.write(
                json.dumps({"prompt": f"def f{row}():", "completion": "return", "repo": row // GROUP_ROWS}) + "\n"
            )
    client.submit_evaluation(refs, data=data, columns=_COLUMNS, precision="native")
    about = {"device": "cpu", "memory_bytes": 2**34, "free_memory_bytes": 2**33, "version": VERSION}
    worker = ClaimRequest(worker=WorkerInfo.model_validate({"name": "w1", **about}))
    held = client.call("POST", "/jobs/claim", Assignment, body=worker)
    results, files = [], []
    for number, target in enumerate(held.targets):
        files.append(scratch / f"rows-{number}.gz")
        results.append(
            _result(client, target.label, target.digest, target.base.fingerprint or "", files[-1], rows, number)
        )
    body = Completion(attempt=held.attempt, evaluations=results)
    client.call("POST", f"/jobs/{held.job}/complete", JobView, body=body, timeout_s=300.0)
    return refs, files


def _result(
    client: Client, label: str, digest: str | None, fingerprint: str, path: Path, rows: int, number: int
) -> EvaluationResult:
    tokens = np.random.default_rng(0).lognormal(3, 1, rows).astype(int) + 1
    rng = np.random.default_rng(number + 1)
    losses = tokens * (1.5 + rng.exponential(0.5, rows) - 0.01 * number)
    rouge = rng.beta(2, 2, rows)
    scores = [
        RowScore(row=row, loss_sum=float(losses[row]), tokens=int(tokens[row]), prediction=f"return {row} " * 12, scores={"rouge_l": float(rouge[row])})
        for row in range(rows)
    ]  # fmt: skip
    with path.open("wb") as file:
        count = write_rows(file, scores)
    sha256, size_bytes = hash_file(path)
    metrics = {"loss": float(losses.sum() / tokens.sum()), "rouge_l": float(rouge.mean()), "rows": float(rows)}
    report = EvaluationReport(
        metrics=metrics,
        precision="float32",
        conditions=_CONDITIONS.model_copy(update={"columns": _COLUMNS}),
        rows=RowFile(digest=sha256, size_bytes=size_bytes, rows=count),
    )
    upload = client.uploader.upload({sha256: path}, "sending")
    return EvaluationResult(label=label, digest=digest, base_fingerprint=fingerprint, report=report, upload=upload)


def _script(one: Path, two: Path) -> tuple[float, float]:
    """What people write: the interval of the difference of losses."""
    found = []
    for path in (one, two):
        with gzip.open(path, "rt") as file:
            found.append([json.loads(line) for line in file])
    tokens = np.array([row["tokens"] for row in found[0]], dtype=float)
    sums = np.array([b["loss_sum"] - a["loss_sum"] for a, b in zip(*found, strict=True)])
    rng = np.random.default_rng(0)
    drawn = np.empty(DRAWS)
    for draw in range(DRAWS):
        chosen = rng.integers(0, len(sums), len(sums))
        drawn[draw] = sums[chosen].sum() / tokens[chosen].sum()
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _processes(server: RegistryServer) -> Iterator[Path]:
    """The folders in /proc of the server's processes, which all have its folder as their own."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cwd").resolve() == server.folder.resolve():
                yield folder


def _resident_bytes(server: RegistryServer, *, peak: bool = False) -> int:
    """The resident memory of the process of the server that has, or had, most."""
    name = "VmHWM" if peak else "VmRSS"
    values = [re.search(rf"{name}:\s+(\d+) kB", (folder / "status").read_text()) for folder in _processes(server)]
    return max(int(value[1]) * 1024 for value in values if value)


def _processor_s(server: RegistryServer) -> float:
    """What the server's processes have computed so far."""
    ticks = 0
    for folder in _processes(server):
        after_name = (folder / "stat").read_text().rpartition(")")[2].split()
        ticks += int(after_name[11]) + int(after_name[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the table."""
    for row in run(*map(int, sys.argv[1:])):
        print(f"{row['what']:<80} {row['ours']:>8} {row['peer']:>8} {row['ratio']:>6}  {row['note']}")


if __name__ == "__main__":
    main()
