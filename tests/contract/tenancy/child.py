"""A worker that is the real one, but for the process that would train: it claims, fetches, checks and hands in as any other.

What that process would have read is noted, and what it leaves behind depends on each byte of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.adapters import BASE_TENSORS, lora_config
from support.scored_rows import CONDITIONS, write_file

from sdk.lora.adapter_config import lora_of
from sdk.pulling.cache import Cache
from sdk.pulling.transfer import hash_file
from sdk.schemas.evaluation import EvaluationReport, MergeReport, RowScore
from sdk.schemas.failures import FailureReason
from sdk.schemas.row_file import row_file_name
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.wire import digest_of
from workers.child.process import Ending, Listener, WarmChild, Watch
from workers.child.protocol import FAULT_FILE, ORDER_FILE, OUT_FOLDER, RESULT_FILE, Fault, News, WrittenCheckpoint
from workers.entry.runner import Worker
from workers.node.shutdown import Shutdown
from workers.pipelines.orders import EvaluationOrder, EvaluationScores, MergeOrder, TrainingOrder, TrainingResult
from workers.settings import WorkerSettings

#: A training with such a seed writes a checkpoint and fails, unless it goes on from one.
FAILING_SEEDS = (3,)
_STEPS = 2
#: By how much less than what was found a worker says that a loss is.
_LIE = 0.9
#: The same for all, so that all scores on the same rows can be compared.
_CONDITIONS = CONDITIONS.model_copy(update={"generated_rows": 0})


@contextmanager
def worker(
    name: str, *, url: str, token: str, cache: Path, shared: Path, notes: Notes, lies: bool = False
) -> Iterator[Worker]:
    """A worker with a cache of its own, which sees the folder `shared`; if it `lies`, it hands in other scores."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ADAPTERCTL_URL", url)
        environment.setenv("ADAPTERCTL_TOKEN", token)
        environment.setenv("ADAPTERCTL_CACHE", str(cache))
        settings = WorkerSettings(name=name, shared_paths=(str(shared),))
        made = Worker(settings, Shutdown(grace_s=30))
    # A worker that has a base is given the jobs for it first. Which jobs are given first is not what is looked at here.
    made._client.cache = _Modest(cache)
    made.warm_child = _Scripted(notes, lies=lies)
    try:
        yield made
    finally:
        made.end()


class _Modest(Cache):
    """A cache that doesn't say which bases it has."""

    @property
    def bases(self) -> Path:
        return self.root / "none"

    def base(self, fingerprint: str) -> Path:
        return self.root / "bases" / fingerprint


class Notes:
    """What children read, by job."""

    def __init__(self) -> None:
        self._read: dict[str, list[dict[str, Any]]] = {}

    def take(self, job: str, read: dict[str, Any]) -> None:
        """Note what one attempt read."""
        self._read.setdefault(job, []).append(read)

    def of(self, job: str) -> list[dict[str, Any]]:
        """What the attempts at a job read, the first one first."""
        return self._read.get(job, [])


class _Scripted(WarmChild):
    """Gives out children that are not processes."""

    def __init__(self, notes: Notes, *, lies: bool) -> None:
        super().__init__(warm=False)
        self._notes = notes
        self._lies = lies

    def take(self, folder: Path) -> Any:
        return _Child(self._notes, lies=self._lies)


class _Child:
    """Does what a child is there for, but for the arithmetic."""

    pid = 0
    last_words = ""

    def __init__(self, notes: Notes, *, lies: bool) -> None:
        self._notes = notes
        self._lies = lies

    def run(self, folder: Path, listener: Listener, _watch: Watch) -> Ending:
        """Carry out the order in `folder`."""
        order = _read_order(folder)
        read = _read_by(order)
        self._notes.take(folder.name.partition("-")[0], read)
        seed = int(digest_of(read)[:12], 16)
        if isinstance(order, TrainingOrder):
            report = _train(order, folder, listener, seed)
            outcome = None if report is None else TrainingResult(report=report)
        elif isinstance(order, EvaluationOrder):
            outcome = _evaluate(order, folder, seed, lie=_LIE if self._lies else 0.0)
        else:
            outcome = _merge(order, folder, seed)
        if outcome is None:
            return Ending(1, None)
        (folder / RESULT_FILE).write_text(outcome.model_dump_json())
        return Ending(0, None)


def _read_order(folder: Path) -> TrainingOrder | EvaluationOrder | MergeOrder:
    text = (folder / ORDER_FILE).read_bytes()
    orders = {"training": TrainingOrder, "scoring": EvaluationOrder, "merging": MergeOrder}
    return orders[json.loads(text)["pipeline"]].model_validate_json(text)


def _read_by(order: TrainingOrder | EvaluationOrder | MergeOrder) -> dict[str, Any]:
    """The spec of an order, and the bytes of all that it names."""
    if isinstance(order, TrainingOrder):
        read: dict[str, Any] = {
            "base": files_of(order.base),
            "base_name": order.base_name,
            "data": [files_of(source.path) for source in order.data],
            "eval_data": files_of(order.eval_data),
            "resume": files_of(order.resume),
        }
    elif isinstance(order, EvaluationOrder):
        items = [{"base": files_of(item.base), "adapter": files_of(item.adapter)} for item in order.items]
        read = {"items": items, "data": files_of(order.data)}
    else:
        read = {"base": files_of(order.base), "adapter": files_of(order.adapter)}
    return {"pipeline": order.pipeline, "spec": order.spec.model_dump(mode="json"), **read}


def files_of(path: Path | None) -> dict[str, str] | str | None:
    """The SHA-256 of a file, or of each file of a folder but a pull's own record of it."""
    if path is None:
        return None
    if path.is_file():
        return hash_file(path)[0]
    return {
        str(file.relative_to(path)): hash_file(file)[0]
        for file in sorted(path.rglob("*"))
        if file.is_file() and ".adapterctl" not in file.parts
    }


def _train(order: TrainingOrder, folder: Path, listener: Listener, seed: int) -> TrainingReport | None:
    out = folder / OUT_FOLDER
    report = _write_adapter(out, order, seed)
    if order.spec.seed not in FAILING_SEEDS or order.resume is not None:
        return report
    checkpoint = Path(order.checkpoints) / "step-00000001"
    shutil.copytree(out, checkpoint)
    (checkpoint / "report.json").write_text(report.model_dump_json())
    listener.news(News(checkpoint=WrittenCheckpoint(step=1, total=_STEPS, folder=str(checkpoint))))
    fault = Fault(
        reason=FailureReason.DIVERGED, message="the loss is not a number; lower lr, then submit the job again"
    )
    (folder / FAULT_FILE).write_text(fault.model_dump_json())
    return None


def _write_adapter(out: Path, order: TrainingOrder, seed: int) -> TrainingReport:
    spec = order.spec
    targets = spec.targets.split(",")
    config = lora_config(
        r=spec.rank,
        lora_alpha=spec.alpha or 2.0 * spec.rank,
        lora_dropout=spec.dropout,
        target_modules=targets,
        base_model_name_or_path=order.base_name,
        revision=order.base_revision,
    )
    numbers = np.random.default_rng(seed)
    tensors = {}
    for name, (wide, into) in ((name, shape) for name, shape in BASE_TENSORS.items() if "_proj" in name):
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{prefix}.lora_A.weight"] = numbers.normal(size=(spec.rank, into)).astype(np.float32)
        tensors[f"{prefix}.lora_B.weight"] = numbers.normal(size=(wide, spec.rank)).astype(np.float32)
    out.mkdir()
    (out / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, out / "adapter_model.safetensors")
    return TrainingReport(
        lora=lora_of(config),
        quantization=None,
        rows=3,
        supervised_tokens=3,
        training=_hyperparameters(spec),
        metrics={"loss": 1 + seed % 1000 / 1000},
        libraries={"torch": "2"},
    )


def _hyperparameters(spec: TrainingSpec) -> dict[str, Any]:
    return {
        **spec.model_dump(mode="json"),
        "alpha": spec.alpha or 2.0 * spec.rank,
        "loss_on": spec.loss_on or "completion",
        "epochs": None if spec.max_steps else spec.epochs,
        "total_steps": spec.max_steps or _STEPS,
        "effective_batch": spec.effective_batch,
    }


def _evaluate(order: EvaluationOrder, folder: Path, seed: int, lie: float) -> EvaluationScores:
    (folder / OUT_FOLDER).mkdir()
    scores = [_scores(folder / OUT_FOLDER, seed + at, lie) for at, _ in enumerate(order.items)]
    return EvaluationScores(outcomes=scores)


def _scores(out: Path, seed: int, lie: float) -> EvaluationReport:
    loss = 1 + seed % 1000 / 1000 - lie
    made = out / "rows"
    file = write_file(made, [RowScore(row=row, loss_sum=loss, tokens=1, prediction=f"said {seed}") for row in range(3)])
    made.rename(out / row_file_name(file.digest))
    metrics = {"loss": loss, "rows": 3}
    return EvaluationReport(metrics=metrics, precision="float32", conditions=_CONDITIONS, rows=file)


def _merge(order: MergeOrder, folder: Path, seed: int) -> MergeReport:
    out = folder / OUT_FOLDER
    out.mkdir()
    shutil.copy(order.base / "config.json", out / "config.json")
    numbers = np.random.default_rng(seed)
    weights = {name: numbers.random(shape, dtype=np.float32) for name, shape in BASE_TENSORS.items()}
    save_file(weights, out / "model.safetensors")
    metrics = {"logit_kl_original": seed % 1000 / 1e6}
    return MergeReport(onto="original", dtype="float32", metrics=metrics)
