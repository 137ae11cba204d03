"""Memory that runs out in a training: less is computed at once, it is said and recorded, and what is learnt is the same."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.trainings import Checkpoints, run_training, save_jsonl

from sdk.lora.memory import chunk_tokens
from sdk.schemas.events import Progress
from sdk.schemas.recorded import RecordedTraining
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.errors import PipelineError
from workers.pipelines.orders import Fit, Rung
from workers.pipelines.training.checkpoints import Interrupted, Record
from workers.pipelines.training.fitting import Limits, change

pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing:FutureWarning")

SPEC = TrainingSpec(
    packing="off",
    method="lora",
    rank=4,
    dropout=0.0,
    max_steps=3,
    lr=0.01,
    batch_size=4,
    grad_accum=1,
    warmup_ratio=0.5,
    seed=3,
)


class Short:
    """Memory for passes of so many rows and, where that is asked for, only with activations that are not kept or chunks of so many tokens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, from_step: int = 1, **enough: Any) -> None:
        from workers.pipelines.training import loop

        self.from_step, self.enough, self.passes = from_step, enough, 0
        true = loop.take_step

        def take(shared: Any, adapter: Any, batch: Any) -> None:
            def backward(*given: Any, **rest: Any) -> Any:
                for name, least in self.enough.items():
                    found = getattr(shared.fitting.fit, name)
                    if (found > least) if type(least) is int else found != least:
                        return _out_of_memory(*given, **rest)
                return _BACKWARD(*given, **rest)

            with monkeypatch.context() as patched:
                if adapter.step + 1 >= self.from_step:
                    patched.setattr(torch.Tensor, "backward", backward)
                true(shared, adapter, batch)

        monkeypatch.setattr(loop, "take_step", take)


_BACKWARD = torch.Tensor.backward


def _out_of_memory(*given: Any, **rest: Any) -> Any:
    """Fail late: gradients are there already."""
    _BACKWARD(*given, **rest)
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried …")


def train(base: Path, data: Path, out: Path, spec: TrainingSpec = SPEC, **rest: Any) -> TrainingReport:
    return run_training(base, data, out, **{"eval_data": data, "spec": spec, **rest})


def matrices(folder: Path) -> dict[str, Any]:
    return load_file(folder / "adapter_model.safetensors")


def require_close(ours: Path, theirs: Path) -> None:
    found, expected = matrices(ours), matrices(theirs)
    for name, matrix in expected.items():
        torch.testing.assert_close(found[name], matrix, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def whole(llama_base: Path, tmp_path_factory: pytest.TempPathFactory, pair_file: Path) -> Path:
    """What a training makes that has memory enough."""
    out = tmp_path_factory.mktemp("whole") / "out"
    report = train(llama_base, pair_file, out)
    assert (report.training["micro_batch"], report.training["memory_steps"]) == (4, None)
    return out


@pytest.fixture(scope="module")
def pair_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "pairs.jsonl"
    rows = [{"prompt": "count " + "and " * number, "completion": "abc"[: 1 + number % 3]} for number in range(12)]
    return save_jsonl(path, rows)


@pytest.mark.parametrize(
    ("enough", "steps"),
    [
        ({"micro_rows": 1}, "step 2: 2 rows a pass; step 2: 1 row a pass"),
        (
            {"micro_rows": 1, "checkpointing": True},
            "step 2: 2 rows a pass; step 2: 1 row a pass; step 2: gradient checkpointing",
        ),
    ],
)
def test_a_training_goes_on_with_less_and_learns_the_same(
    llama_base: Path,
    pair_file: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    enough: dict[str, Any],
    steps: str,
) -> None:
    Short(monkeypatch, from_step=2, **enough)
    seen: list[Progress] = []
    report = train(llama_base, pair_file, tmp_path / "out", on_progress=seen.append)
    assert report.training["memory_steps"] == steps
    assert report.training["micro_batch"] == 1
    assert report.training["gradient_checkpointing"] is ("checkpointing" in enough)
    assert report.training["effective_batch"] == 4
    assert report.metrics["steps"] == 3
    require_close(tmp_path / "out", whole)
    said = [progress.message or "" for progress in seen if progress.phase == "fit"]
    assert said[0] == "memory ran out in step 2; it goes on with 2 rows a pass, same effective batch"
    assert len(said) == len(steps.split(";"))


def test_what_nothing_helps_fails_and_names_what_was_tried(
    llama_base: Path, pair_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Short(monkeypatch, micro_rows=0)
    with pytest.raises(PipelineError, match="least that can be computed at once") as caught:
        train(llama_base, pair_file, tmp_path / "out")
    assert caught.value.reason == "oom"
    assert (
        "(tried: step 1: 2 rows a pass; step 1: 1 row a pass; step 1: gradient checkpointing; step 1: logits of "
        in caught.value.message
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "said"), [({"dropout": 0.1}, "other dropout masks"), ({"neftune_noise_alpha": 5.0}, "other noise")]
)
def test_masks_and_noise_are_named_where_they_are_others(
    llama_base: Path,
    pair_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, float],
    said: str,
) -> None:
    Short(monkeypatch, micro_rows=2)
    spec = SPEC.model_copy(update={**changed, "max_steps": 1})
    report = train(llama_base, pair_file, tmp_path / "out", spec)
    assert report.training["memory_steps"] == f"step 1: 2 rows a pass ({said})"


def test_the_first_rung_is_below_the_rows_that_there_are(
    llama_base: Path, pair_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = len(pair_file.read_text().splitlines())
    spec = SPEC.model_copy(update={"batch_size": 64, "grad_accum": 1, "max_steps": 1})
    Short(monkeypatch, micro_rows=rows // 2)
    report = train(llama_base, pair_file, tmp_path / "out", spec)
    assert report.training["memory_steps"] == f"step 1: {rows // 2} rows a pass"


def test_an_evaluation_is_taken_again_in_smaller_parts(
    llama_base: Path, pair_file: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.pipelines.data import batches

    true = batches.example_losses

    def example_losses(model: Any, examples: Any, pad_id: int, rows: int, *rest: Any) -> Any:
        if rows > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return true(model, examples, pad_id, rows, *rest)

    monkeypatch.setattr(batches, "example_losses", example_losses)
    report = train(llama_base, pair_file, tmp_path / "out")
    assert report.training["memory_steps"] == "the evaluation: 2 rows a pass"
    require_close(tmp_path / "out", whole)


def kept(folder: Path, **options: Any) -> Checkpoints:
    return Checkpoints(folder, every_steps=1, **options)


def test_a_training_that_goes_on_takes_up_the_rung_it_was_on(
    llama_base: Path, pair_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        Short(patched, micro_rows=1)
        broken = train(llama_base, pair_file, tmp_path / "broken", checkpoints=kept(tmp_path / "kept"))
    record = Record.model_validate_json((tmp_path / "kept" / "step-00000002" / "record.json").read_bytes())
    assert record.fit.micro_rows == 1
    # There is memory enough now, and yet the bytes are those of the one that did not stop.
    resume = kept(tmp_path / "again", resume=tmp_path / "kept" / "step-00000002")
    report = train(llama_base, pair_file, tmp_path / "out", checkpoints=resume)
    for name in ("micro_batch", "memory_steps", "logit_chunk_tokens"):
        assert report.training[name] == broken.training[name]
    read = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("broken", "out")]
    assert read[0] == read[1]


def test_the_process_after_a_killed_one_goes_on_with_less(
    llama_base: Path, pair_file: Path, whole: Path, tmp_path: Path
) -> None:
    file = tmp_path / "rung.json"
    with pytest.raises(Interrupted):
        train(
            llama_base,
            pair_file,
            tmp_path / "first",
            rung_file=file,
            checkpoints=kept(tmp_path / "kept", must_stop=_after(2)),
        )
    rung = Rung.model_validate_json(file.read_bytes())
    assert (rung.fit.micro_rows, rung.steps) == (4, [])
    assert rung.below == rung.fit.model_copy(update={"micro_rows": 2})
    resume = kept(tmp_path / "again", resume=tmp_path / "kept" / "step-00000002")
    report = train(llama_base, pair_file, tmp_path / "out", rung_file=file, killed_on=rung, checkpoints=resume)
    assert (report.training["micro_batch"], report.training["memory_steps"]) == (2, "killed: 2 rows a pass")
    assert report.metrics["resumed_from_step"] == 2
    assert Rung.model_validate_json(file.read_bytes()).fit.micro_rows == 2
    require_close(tmp_path / "out", whole)


def _after(step: int) -> Callable[[], bool]:
    """Must stop once so many steps are done; it is asked four times before the first one."""
    asked = [0]

    def must_stop() -> bool:
        asked[0] += 1
        return asked[0] >= step + 3

    return must_stop


def test_a_training_made_again_computes_as_its_record_says(llama_base: Path, pair_file: Path, tmp_path: Path) -> None:
    def again(**ran_with: Any) -> TrainingReport:
        like = RecordedTraining(ref="sql@v3", digest="a" * 64, ran_with=ran_with)
        return train(llama_base, pair_file, tmp_path / "out", SPEC.model_copy(update={"max_steps": 1}), like=like)

    made = again(micro_batch=2, logit_chunk_tokens=3, gradient_checkpointing=True, activation_offloading=True)
    # There is no other memory here.
    assert made.training["activation_offloading"] is False
    assert [made.training[name] for name in ("micro_batch", "logit_chunk_tokens", "gradient_checkpointing")] == [
        2,
        3,
        True,
    ]
    # Where a record says none of it, all logits are there at once.
    made = again(threads=1)
    assert (made.training["micro_batch"], made.training["logit_chunk_tokens"]) == (4, None)


def test_a_checkpoint_goes_on_with_the_logits_that_it_had_at_once(
    llama_base: Path, pair_file: Path, tmp_path: Path
) -> None:
    train(llama_base, pair_file, tmp_path / "first", checkpoints=kept(tmp_path / "kept"))
    folder = tmp_path / "kept" / "step-00000002"
    record = Record.model_validate_json((folder / "record.json").read_bytes())
    vocabulary = json.loads((llama_base / "config.json").read_text())["vocab_size"]
    assert record.fit == Fit(micro_rows=4, checkpointing=False, chunk_tokens=chunk_tokens(vocabulary, "cpu"))
    fit = record.fit.model_copy(update={"chunk_tokens": None})
    (folder / "record.json").write_text(record.model_copy(update={"fit": fit}).model_dump_json())
    report = train(llama_base, pair_file, tmp_path / "out", checkpoints=kept(tmp_path / "again", resume=folder))
    assert report.training["logit_chunk_tokens"] is None


#: Trains with a limit on the data that the process may hold, so that the allocator refuses what would be too much.
LIMITED = """
import resource, sys
from pathlib import Path
import torch
from sdk.schemas.training import TrainingSpec
from benchmarks.pipelines import train
base, data, out, spare = sys.argv[1:]
spec = TrainingSpec(method="lora", rank=2, dropout=0.0, max_steps=2, lr=0.01, batch_size=48, grad_accum=1, max_length=250)
torch.set_num_threads(1)
def limit(progress):
    if progress.phase == "load" and "held as" in (progress.message or ""):
        held = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (held + int(spare), held + int(spare)))
    if progress.phase == "fit":
        print(progress.message, flush=True)
report = train(Path(base), Path(data), Path(out), spec, {"report": limit})
print("steps:", report.training["memory_steps"])
"""


@pytest.mark.slow
def test_a_limit_on_data_leaves_a_training_with_smaller_passes(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    from support import processes

    data = write_jsonl([{"prompt": f"{number:03d} ", "completion": "x" * 240} for number in range(48)])
    given = [str(path) for path in (llama_base, data)]
    done = {}
    for name, spare_bytes in (("short", 120 * 2**20), ("enough", 2**40)):
        command = ["python", "-c", LIMITED, *given, str(tmp_path / name), str(spare_bytes)]
        done[name] = processes.run(*command, env=processes.environment(OMP_NUM_THREADS="1"))
        assert done[name].returncode == 0, done[name].stderr
    assert "steps: None" in done["enough"].stdout
    assert "steps: step 1: 24 rows a pass" in done["short"].stdout
    assert done["short"].stdout.startswith("memory ran out in step 1; it goes on with 24 rows a pass")
    require_close(tmp_path / "short", tmp_path / "enough")


def test_rungs_end_with_activations_in_other_memory_where_there_is_some() -> None:
    limits = Limits(checkpointing=True, chunk_tokens=400, offloading=True)
    rungs = [Fit(micro_rows=3, checkpointing=False, chunk_tokens=None)]
    while (below := limits.below(rungs[-1])) is not None:
        rungs.append(below)
    assert [change(*each) for each in itertools.pairwise(rungs)] == [
        "1 row a pass",
        "gradient checkpointing",
        "logits of 50 tokens at a time",
        "activations in main memory",
    ]
    # What a model can't do is passed over.
    assert Limits(checkpointing=False, chunk_tokens=None, offloading=True).below(rungs[1]) is None
