"""Memory that runs out elsewhere than in a pass of a step: looked again, or said with what helps, and no finished training is lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny
from support.trainings import Checkpoints, run_training

from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.data import batches
from workers.pipelines.data.probe import probe
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import load_adapter
from workers.pipelines.training import probing, short_of_memory, train
from workers.pipelines.training.short_of_memory import after_the_last_step, before_the_first_step, smaller_optimizer

pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing:FutureWarning")

SPEC = TrainingSpec(method="lora", rank=4, max_steps=1, lr=0.02, batch_size=2, grad_accum=1, targets="q_proj", seed=3)


def short(true: Callable[..., Any], *, times: int, begin: int = 0) -> Callable[..., Any]:
    """`true`, which has no memory for so many calls, from a call on."""
    calls = 0

    def called(*given: Any, **rest: Any) -> Any:
        nonlocal calls
        calls += 1
        if begin < calls <= begin + times:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you …"
            )
        return true(*given, **rest)

    return called


def run(base: Path, data: Path, out: Path, spec: TrainingSpec = SPEC, **rest: Any) -> TrainingReport:
    return run_training(base, data, out, spec=spec, **rest)


def files(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("adapter_model.safetensors", "adapter_config.json")]


class Kept:
    """Checkpoints that are asked for, and the steps of those that were told of."""

    def __init__(self, folder: Path, resume: Path | None = None) -> None:
        self.steps: list[int] = []
        self.asked = Checkpoints(folder, written=lambda step, total, at: self.steps.append(step), resume=resume)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 4)


@pytest.fixture(scope="module")
def whole(llama_base: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training makes that has memory enough."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(llama_base, pairs, out)
    return out


@pytest.mark.parametrize(("room", "name"), [(probing, "probe"), (train, "require_equal_to_base")])
def test_a_look_is_taken_again(
    llama_base: Path, pairs: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, room: Any, name: str
) -> None:
    freed = list[None]()
    monkeypatch.setattr(short_of_memory, "give_back", lambda: freed.append(None))
    monkeypatch.setattr(room, name, short(getattr(room, name), times=1))
    run(llama_base, pairs, tmp_path / "out")
    assert len(freed) == 1
    assert files(tmp_path / "out") == files(whole)


@pytest.mark.parametrize("name", ["load_base", "require_causal", "adapted", "require_equal_to_base", "fitting_of"])
def test_before_the_first_step_it_is_not_the_rows_that_are_named(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(train, name, short(getattr(train, name), times=2))
    with pytest.raises(PipelineError, match="before the first step") as caught:
        run(llama_base, pairs, tmp_path / "out")
    assert caught.value.reason == "oom"
    assert "choose method qlora, a smaller base or a machine with more memory" in caught.value.message
    assert "batch_size" not in caught.value.message


def test_what_is_named_before_the_first_step_fits_the_options() -> None:
    for said, spec in (
        ("; choose a smaller base or", SPEC.model_copy(update={"method": "qlora"})),
        ("; leave out init_lora_weights eva, or choose", SPEC.model_copy(update={"init_lora_weights": "eva"})),
    ):
        with pytest.raises(PipelineError, match=said), before_the_first_step(spec):
            raise MemoryError


def test_a_step_of_the_optimiser_names_what_it_keeps(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", short(torch.optim.AdamW.step, times=9))
    with pytest.raises(PipelineError, match="in a step of the optimiser adamw") as caught:
        run(llama_base, pairs, tmp_path / "out")
    assert caught.value.reason == "oom"
    # 2 layers, 64 numbers in and out, rank 4: 8 bytes for each number of A and B.
    assert "keeps 0.0 MiB for 1,024 trained numbers; lower rank, or choose fewer targets." in caught.value.message


@pytest.mark.parametrize(
    ("optim", "helps"),
    [
        ("adamw", "4.0 MiB for 524,288 trained numbers; choose optim adamw_8bit, .* or paged_adamw_8bit"),
        ("adamw_8bit", "1.0 MiB for 524,288 trained numbers; choose optim paged_adamw_8bit"),
        ("paged_adamw", "choose optim paged_adamw_8bit"),
        ("paged_adamw_8bit", "numbers; lower rank, or choose fewer targets"),
        ("schedule_free_adamw", "4.0 MiB for 524,288 trained numbers; choose optim lion, .* or adafactor"),
        ("lion", "2.0 MiB for 524,288 trained numbers; lower rank"),
    ],
)
def test_on_a_card_an_optimiser_that_keeps_less_is_named(optim: Any, helps: str) -> None:
    class OnCard:
        is_cuda = True
        shape = (8, 65_536)

    said = smaller_optimizer([OnCard()], SPEC.model_copy(update={"optim": optim}))
    assert re.search(helps, said)
    assert said.endswith("lower rank, or choose fewer targets.")


def _last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "probe", short(probe, times=2))


def _saved_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "load_adapter", short(load_adapter, times=1))


def _held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first evaluation, of the bare base, has memory enough; the other has none on any rung."""
    monkeypatch.setattr(batches, "example_losses", short(batches.example_losses, times=99, begin=1))


@pytest.mark.parametrize("runs_out", [_last_look, _saved_adapter, _held_out])
def test_no_finished_training_is_lost(
    llama_base: Path,
    pairs: Path,
    tmp_path: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    runs_out: Callable[[pytest.MonkeyPatch], None],
) -> None:
    first = Kept(tmp_path / "checkpoints")
    with monkeypatch.context() as patched:
        runs_out(patched)
        with pytest.raises(PipelineError) as caught:
            run(llama_base, pairs, tmp_path / "failed", checkpoints=first.asked, eval_data=pairs)
    assert caught.value.reason == "oom"
    assert "All steps are done, and the checkpoint of step 1 is kept" in caught.value.message
    assert first.steps == [1]
    (folder,) = (tmp_path / "checkpoints").iterdir()
    second = Kept(tmp_path / "more", resume=folder)
    if runs_out is _last_look:
        with monkeypatch.context() as patched:
            runs_out(patched)
            with pytest.raises(PipelineError, match="the checkpoint of step 1 is kept"):
                run(llama_base, pairs, tmp_path / "failed-again", checkpoints=second.asked, eval_data=pairs)
        # It is there already.
        assert second.steps == []
    report = run(llama_base, pairs, tmp_path / "out", checkpoints=second.asked, eval_data=pairs)
    assert files(tmp_path / "out") == files(whole)
    assert report.metrics["steps"] == 1


def test_another_error_in_the_last_look_is_raised_as_it_is(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any, **rest: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(probing, "probe", broken)
    kept = Kept(tmp_path / "checkpoints")
    with pytest.raises(RuntimeError, match="a bug"):
        run(llama_base, pairs, tmp_path / "out", checkpoints=kept.asked)
    assert kept.steps == []


def test_what_follows_hides_no_lack_of_memory() -> None:
    def full() -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(PipelineError) as caught, after_the_last_step(full):
        raise MemoryError
    assert caught.value.reason == "oom"
    assert "last look" in caught.value.message
    assert "No checkpoint could be kept of it either: [Errno 28] No space left on device" in caught.value.message
