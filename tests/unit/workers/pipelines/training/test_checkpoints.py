"""A training that stops and goes on ends with the same bytes as one that never stopped."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from support import tiny
from support.fixtures import Limits
from support.soak import SOAKING, scale
from support.trained import Trained
from support.trainings import Checkpoints, inputs_of, run_training
from support.waiting import wait_until

from sdk.schemas.events import Progress
from sdk.schemas.job_requests import CheckpointPolicy
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.training.checkpoints import FILES, Interrupted, Pace, Record

# PEFT reads a property that transformers has renamed; the pipelines silence it themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]

ROOT = Path(__file__).parents[5]
#: 14 rows by fours: the last step of each of the two epochs has two rows only.
SPEC = TrainingSpec(
    rank=4, dropout=0.2, epochs=2, lr=0.01, batch_size=2, grad_accum=2, warmup_ratio=0.3, seed=3, method="lora"
)
STEPS = 8
#: After which steps a training is stopped: the first, the last of each epoch, and one amid each.
STOPS = range(1, STEPS + 1) if SOAKING else (1, 3, 4, 6, STEPS)
Method = Literal["lora", "qlora"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 14)


@pytest.fixture(scope="module")
def trainings(llama_base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(llama_base, rows, tmp_path_factory.mktemp("trainings"))


class Trainings:
    """Trainings of one base on one file of rows, each in a folder of its own."""

    def __init__(self, base: Path, rows: Path, folder: Path) -> None:
        self.base, self.rows, self.folder = base, rows, folder
        self._wholes: dict[str, tuple[Trained, Path]] = {}
        self._written: dict[str, Path] = {}

    def run(
        self, name: str, method: Method, checkpoints: Checkpoints | None = None, **rest: Any
    ) -> tuple[Trained, Path]:
        """Train on from whatever state the process' random generators are in."""
        torch.manual_seed(random.randrange(1000))
        options = {"eval_data": self.rows, "base_revision": "c0ffee", "checkpoints": checkpoints, **rest}
        options["spec"] = rest.get("spec", SPEC).model_copy(update={"method": method})
        out = self.folder / name
        return run_training(self.base, self.rows, out, **options), out

    def whole(self, method: Method) -> tuple[Trained, Path]:
        """The training that never stopped and wrote no checkpoint."""
        if method not in self._wholes:
            self._wholes[method] = self.run(f"{method}-whole", method)
        return self._wholes[method]

    def written(self, method: Method) -> Path:
        """The folder of a training's checkpoints, one after each step."""
        if method not in self._written:
            folder = self.folder / f"{method}-checkpoints"
            report, out = self.run(f"{method}-written", method, Checkpoints(folder, every_steps=1))
            assert same(self.whole(method), (report, out)), "writing checkpoints changed the training"
            self._written[method] = folder
        return self._written[method]


def nth_call(number: int) -> Callable[[], bool]:
    """Say yes on the call of that number, counted from 1, and on all after it."""
    calls = iter(range(1, 1000))
    return lambda: next(calls) >= number


def after_step(step: int, phases: int = 3) -> Callable[[], bool]:
    """Say yes after that many steps in this process; it is asked `phases` times before the first one."""
    return nth_call(phases + step)


def same(one: tuple[Trained, Path], other: tuple[Trained, Path]) -> bool:
    """Compare adapters by byte, and losses, rates and counts by the last digit."""
    files = [{path.name: path.read_bytes() for path in out.iterdir()} for _, out in (one, other)]
    measured = ("loss", "eval_loss", "eval_loss_base", "tokens", "steps")
    numbers = [[report.metrics.get(name) for name in measured] for report, _ in (one, other)]
    return (
        files[0] == files[1]
        and numbers[0] == numbers[1]
        and (one[0].losses, one[0].rates) == (other[0].losses, other[0].rates)
    )


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_going_on_after_any_step_ends_like_the_training_that_never_stopped(
    trainings: Trainings, method: Method
) -> None:
    folder = trainings.written(method)
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{step:08d}" for step in range(1, STEPS + 1)]
    for step in STOPS:
        seen: list[Progress] = []
        report, out = trainings.run(
            f"{method}-from-{step}",
            method,
            Checkpoints(trainings.folder / "unused", resume=folder / f"step-{step:08d}"),
            on_progress=seen.append,
        )
        assert same(trainings.whole(method), (report, out)), step
        assert [progress.step for progress in seen if progress.phase == "train"] == list(range(step + 1, STEPS + 1))
        assert report.metrics["resumed_from_step"] == step
    assert not (trainings.folder / "unused").exists()


@pytest.mark.soak
@pytest.mark.slow
def test_a_training_interrupted_again_and_again(trainings: Trainings, tmp_path: Path) -> None:
    newest: Path | None = None
    written: list[tuple[int, int, Path]] = []
    for before, step in itertools.pairwise((0, *STOPS)):
        phases = 3 if newest is None else 2
        kept = Checkpoints(
            tmp_path,
            resume=newest,
            must_stop=after_step(step - before, phases),
            written=lambda *what: written.append(what),
        )
        with pytest.raises(Interrupted) as caught:
            trainings.run("interrupted", "qlora", kept)
        assert caught.value.step == step
        assert written[-1] == (step, STEPS, tmp_path / f"step-{step:08d}")
        newest = written[-1][2]
    assert len(written) == len(STOPS)
    assert not (trainings.folder / "interrupted").exists()

    spent = [Record.model_validate_json((path / "record.json").read_bytes()).train_s for _, _, path in written]
    assert spent == sorted(spent)
    # Nothing is left to do but to evaluate and to save.
    seen: list[Progress] = []
    report, out = trainings.run("interrupted", "qlora", Checkpoints(tmp_path, resume=newest), on_progress=seen.append)
    assert same(trainings.whole("qlora"), (report, out))
    assert "train" not in {progress.phase for progress in seen}
    assert report.metrics["train_s"] >= spent[-1]
    assert report.metrics["tokens_per_s"] == report.metrics["tokens"] / report.metrics["train_s"]
    assert report.metrics["resumed_from_step"] == STEPS


def test_a_checkpoint_is_an_adapter_with_the_report_of_a_training_that_ended_there(
    trainings: Trainings,
) -> None:
    from transformers import AutoModelForCausalLM

    from workers.pipelines.model.adapters import load_adapter

    whole, out = trainings.whole("lora")
    folder = trainings.written("lora") / "step-00000005"
    assert {path.name for path in folder.iterdir()} == FILES | {"generation_config.json", "rendering.json"}
    assert (folder / "adapter_config.json").read_bytes() == (out / "adapter_config.json").read_bytes()
    assert (folder / "adapter_model.safetensors").read_bytes() != (out / "adapter_model.safetensors").read_bytes()
    load_adapter(AutoModelForCausalLM.from_pretrained(trainings.base), folder)

    report = TrainingReport.model_validate_json((folder / "report.json").read_bytes())
    record = Record.model_validate_json((folder / "record.json").read_bytes())
    assert (record.losses, record.rates) == (whole.losses[:5], whole.rates[:5])
    assert report.metrics["loss"] == whole.losses[4]
    assert report.metrics["steps"] == 5
    assert report.metrics["eval_loss_base"] == whole.metrics["eval_loss_base"]
    # Its adapter is not measured once more, and no second epoch has ended.
    measured = {name for name in whole.metrics if name.startswith("probe_")} | {"eval_loss", "largest_update"}
    assert report.metrics.keys() == whole.metrics.keys() - measured - {"first_loss", "last_loss"}
    assert report.training == {name: value for name, value in whole.training.items() if name != "probe_texts"}
    assert whole.metrics.keys() & {"resumed_from_step"} == set()


def test_the_loss_is_the_mean_over_the_last_tenth_of_all_steps_also_after_going_on(
    trainings: Trainings, tmp_path: Path
) -> None:
    spec = SPEC.model_copy(update={"max_steps": 20})
    with pytest.raises(Interrupted):
        trainings.run("twenty", "lora", Checkpoints(tmp_path, must_stop=after_step(19)), spec=spec, eval_data=None)
    kept = Checkpoints(tmp_path, resume=tmp_path / "step-00000019")
    report, _ = trainings.run("twenty", "lora", kept, spec=spec, eval_data=None)
    assert len(report.losses) == 20
    assert report.metrics["loss"] == (report.losses[-2] + report.losses[-1]) / 2


def test_going_on_with_less_memory_changes_nothing(
    trainings: Trainings, tmp_path: Path, limits: Limits, wide_share: Callable[[float], None]
) -> None:
    import sdk.lora.planning.forecast as module

    folder = trainings.written("qlora") / "step-00000003"
    limits(module, ACTIVATION_SHARE=0.0)
    wide_share(0.0)
    report, out = trainings.run("sparing", "qlora", Checkpoints(tmp_path, resume=folder))
    assert report.training["gradient_checkpointing"] is True
    assert same(trainings.whole("qlora"), (report, out))


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"every_steps": 3}, [3, 6]),
        ({"every_minutes": 1e-9}, list(range(1, 9))),
        # Seconds are counted from the last checkpoint, and writing takes time as well.
        ({"every_minutes": 1}, [3, 6]),
        ({}, []),
    ],
)
def test_checkpoints_are_due_every_so_often_and_without_a_pace_never(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], steps: list[int]
) -> None:
    now = [100.0]
    monkeypatch.setattr("workers.pipelines.training.checkpoints.time.monotonic", lambda: now[0])
    pace, due = Pace(CheckpointPolicy(**{"every_minutes": None, **options})), []
    for step in range(1, STEPS + 1):
        now[0] += 25
        if pace.is_due(step):
            due.append(step)
            now[0] += 20
            pace.wrote()
    assert due == steps


def test_a_stop_before_the_first_step_leaves_no_checkpoint(trainings: Trainings, tmp_path: Path) -> None:
    phases: list[set[str]] = []
    for call in (1, 2, 3):
        seen: list[Progress] = []
        kept = Checkpoints(tmp_path, must_stop=nth_call(call))
        with pytest.raises(Interrupted) as caught:
            trainings.run("early", "lora", kept, on_progress=seen.append)
        assert caught.value.step == 0
        phases.append({progress.phase for progress in seen})
    assert phases == [{"data"}, {"data", "load"}, {"data", "load", "evaluate"}]

    newest = trainings.written("lora") / "step-00000004"
    for call in (1, 2):
        with pytest.raises(Interrupted) as caught:
            trainings.run("early", "lora", Checkpoints(tmp_path, must_stop=nth_call(call), resume=newest))
        assert caught.value.step == 4
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_the_same_step_is_replaced(trainings: Trainings, tmp_path: Path) -> None:
    stale = tmp_path / "step-00000001"
    stale.mkdir()
    (stale / "record.json").write_text("{}")
    (tmp_path / ".partial-step-00000001").mkdir()
    (tmp_path / ".partial-step-00000001" / "torn").write_text("")
    with pytest.raises(Interrupted):
        trainings.run("again", "lora", Checkpoints(tmp_path, must_stop=after_step(1)))
    assert {path.name for path in stale.iterdir()} == FILES | {"generation_config.json", "rendering.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow past 20 kB, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_an_oserror_and_leaves_nothing_behind(trainings: Trainings, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too large") as caught:
        # The optimiser's state is the first file that is larger.
        trainings.run("full", "lora", Checkpoints(tmp_path, every_steps=2))
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import os, sys
from pathlib import Path
from sdk.schemas.training import TrainingSpec
from support.trainings import Checkpoints, run_training

base, data, spec = sys.argv[1:]
for line in sys.stdin:
    folder = Path(line.strip())
    child = os.fork()
    if child == 0:
        run_training(Path(base), Path(data), folder / "out", base_revision="c0ffee", eval_data=Path(data),
                     spec=TrainingSpec.model_validate_json(spec), checkpoints=Checkpoints(folder / "kept", every_steps=1))
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@pytest.mark.soak
@pytest.mark.slow
def test_a_process_killed_at_any_moment_leaves_whole_checkpoints_only(trainings: Trainings, tmp_path: Path) -> None:
    from workers.pipelines.training.resuming import read_checkpoint

    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "HF_HUB_OFFLINE": "1",
        "PYTHONHASHSEED": "7",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", PROGRAM, str(trainings.base), str(trainings.rows), SPEC.model_dump_json()]
    moments = random.Random()
    newest: list[Path] = []
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for attempt in range(scale(60)):
            folder = tmp_path / str(attempt)
            folder.mkdir()
            print(folder, file=process.stdin, flush=True)
            child = int(process.stdout.readline())
            wait_until((folder / "kept" / f"step-{moments.randint(1, 5):08d}").exists)
            # The first one as soon as there is something under that name.
            time.sleep(moments.uniform(0, 0.2) if attempt else 0)
            with suppress(ProcessLookupError):
                # On a fast machine it may have come to its end by itself.
                os.kill(child, signal.SIGKILL)
            assert process.stdout.readline() == "ended\n"
            names = sorted(path.name for path in (folder / "kept").iterdir())
            newest.append(folder / "kept" / [name for name in names if name.startswith("step-")][-1])
            for name in names:
                if name.startswith("step-"):
                    asked = {"base_revision": "c0ffee", "eval_data": trainings.rows}
                    given = inputs_of(trainings.base, trainings.rows, spec=SPEC, **asked)
                    found = read_checkpoint(
                        folder / "kept" / name, configuration=given.configuration, spec=SPEC, schedule=given.schedule
                    )
                    assert name == f"step-{found.record.step:08d}"
                else:
                    assert name.startswith(".partial-")
        process.stdin.close()
    result = trainings.run("killed", "lora", Checkpoints(tmp_path / "on", resume=moments.choice(newest)))
    assert same(trainings.whole("lora"), result)


def test_the_record_holds_no_path_and_no_time_of_day(trainings: Trainings) -> None:
    folder = trainings.written("lora") / "step-00000002"
    for name in ("record.json", "report.json", "progress.json", "adapter_config.json"):
        text = (folder / name).read_text()
        json.loads(text)
        assert str(trainings.base) not in text
        assert str(trainings.folder) not in text
