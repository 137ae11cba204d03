"""A checkpoint that is broken, tampered with or of another training is refused in a sentence, and runs nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny
from support.fixtures import Limits
from support.trainings import Checkpoints, run_training

from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.errors import PipelineError
from workers.pipelines.training.checkpoints import FILES, Interrupted, Record, Resumed
from workers.pipelines.training.loop import LOOP

# PEFT reads a property that transformers has renamed; the pipelines silence it themselves.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ROOT = Path(__file__).parents[5]
SPEC = TrainingSpec(method="lora", rank=4, max_steps=3, lr=0.01, batch_size=4, grad_accum=1)


class Training:
    """A training of three steps that was stopped after two, and what is asked to go on from its checkpoint."""

    def __init__(self, base: Path, rows: Path, folder: Path) -> None:
        self.base, self.rows, self.folder = base, rows, folder
        calls = iter(range(10))
        kept = Checkpoints(folder, must_stop=lambda: next(calls) == 4)
        with pytest.raises(Interrupted):
            self.run(folder / "out", kept)
        self.checkpoint = folder / "step-00000002"
        self.configuration = Record.model_validate_json((self.checkpoint / "record.json").read_bytes()).configuration

    def run(self, out: Path, kept: Checkpoints, **rest: Any) -> None:
        given = {"data": self.rows, "base_revision": "c0ffee", "spec": SPEC, **rest}
        run_training(self.base, given.pop("data"), out, **given, checkpoints=kept)

    def read(self, checkpoint: Path) -> Resumed:
        from workers.pipelines.training.optimising import Schedule
        from workers.pipelines.training.resuming import read_checkpoint

        schedule = Schedule("cosine", 1, 3)
        return read_checkpoint(checkpoint, configuration=self.configuration, spec=SPEC, schedule=schedule)

    def resume(self, checkpoint: Path, **rest: Any) -> None:
        unused = checkpoint.parent / "unused"
        self.run(unused, Checkpoints(unused, resume=checkpoint), **rest)


@pytest.fixture(scope="module")
def training(llama_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Training]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("training")
    yield Training(llama_base, tiny.write_rows(folder / "rows.jsonl"), folder)
    torch.set_num_threads(threads)


@pytest.fixture
def copy(training: Training, tmp_path: Path) -> Path:
    """A checkpoint to break."""
    return Path(shutil.copytree(training.checkpoint, tmp_path / "step-00000002"))


@pytest.fixture
def refusal(training: Training, copy: Path) -> Callable[[], str]:
    """Read the checkpoint as its own training would, and return why that refuses it."""

    def read() -> str:
        with pytest.raises(PipelineError) as caught:
            training.read(copy)
        assert caught.value.reason == "checkpoint"
        message = caught.value.message
        assert message.startswith("The checkpoint is broken: ")
        assert message.endswith("; submit the training again from the beginning.")
        assert "\n" not in message
        assert str(copy) not in message
        return message.removeprefix("The checkpoint is broken: ").split(";")[0]

    return read


def test_a_checkpoint_as_it_was_written_is_taken(training: Training, copy: Path) -> None:
    assert training.read(copy).record.step == 2


@pytest.mark.parametrize("name", sorted(FILES))
def test_each_file_must_be_there_and_whole(copy: Path, refusal: Callable[[], str], name: str) -> None:
    path = copy / name
    content = path.read_bytes()
    for size in (0, 1, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:size])
        assert refusal().startswith(f"{name} can't be read back ("), size
    path.unlink()
    assert refusal() == f"{name} is missing"
    path.symlink_to("/dev/null")
    assert refusal() == f"{name} is not a plain file"
    path.unlink()
    path.mkdir()
    assert refusal() == f"{name} is not a plain file"


@pytest.mark.parametrize("name", ["training_args.bin", "README.md", ".hidden"])
def test_a_file_too_many_is_refused(copy: Path, refusal: Callable[[], str], name: str) -> None:
    (copy / name).write_text("")
    assert refusal() == f"{name} does not belong there"


def test_a_folder_that_is_not_there_is_refused(copy: Path, refusal: Callable[[], str]) -> None:
    shutil.rmtree(copy)
    assert refusal() == "its folder can't be read (No such file or directory)"


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self._path),))


@pytest.mark.parametrize("zipped", [True, False], ids=["zipped", "plain"])
@pytest.mark.parametrize("name", sorted(FILES))
def test_no_pickle_is_read(
    training: Training, copy: Path, refusal: Callable[[], str], tmp_path: Path, name: str, zipped: bool
) -> None:
    trap = tmp_path / "executed"
    pickled = tmp_path / "pickled.pt"
    torch.save({"0.step": Malicious(trap)}, pickled, _use_new_zipfile_serialization=zipped)
    # The trap is a real one.
    torch.load(pickled, weights_only=False)
    trap.rmdir()
    pickled.rename(copy / name)

    assert refusal().startswith(f"{name} can't be read back (")
    with pytest.raises(PipelineError, match="The checkpoint is broken"):
        training.resume(copy)
    assert not trap.exists()


def test_our_code_unpickles_only_where_it_converts() -> None:
    callers = {
        path.relative_to(ROOT).as_posix()
        for room in ("sdk", "registry", "workers")
        for path in (ROOT / room).rglob("*.py")
        if re.search(
            r"torch\.load\(|pickle\.loads?\(|^\s*(import|from) (c?[pP]ickle|joblib|dill|shelve)\b",
            path.read_text(),
            re.M,
        )
    }
    assert callers == {"workers/pipelines/model/convert.py"}


def _in_tensors(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name)

    return apply


def _in_json(name: str, **values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **values}))

    return apply


WEIGHTS = "adapter_model.safetensors"
OPTIMIZER = "optimizer.safetensors"
GENERATORS = "generators.safetensors"
MATRIX = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "a matrix that is not finite": (
        _in_tensors(WEIGHTS, lambda tensors: tensors[MATRIX][0, 0].fill_(float("nan"))),
        f"adapter_model.safetensors can't be read back ({MATRIX} is not finite)",
    ),
    "a matrix in 16 bit": (
        _in_tensors(WEIGHTS, lambda tensors: tensors.update({MATRIX: tensors[MATRIX].bfloat16()})),
        f"{WEIGHTS} can't be read back ({MATRIX} has another type)",
    ),
    "a moment that is not finite": (
        _in_tensors(OPTIMIZER, lambda tensors: tensors["3.exp_avg_sq"][0].fill_(float("inf"))),
        f"{OPTIMIZER} can't be read back (3.exp_avg_sq is not finite)",
    ),
    "a moment of another shape": (
        _in_tensors(OPTIMIZER, lambda tensors: tensors.update({"3.exp_avg_sq": torch.zeros(1)})),
        f"{OPTIMIZER} can't be read back (3.exp_avg_sq has another shape)",
    ),
    "a moment of another type": (
        _in_tensors(OPTIMIZER, lambda tensors: tensors.update({"3.exp_avg": tensors["3.exp_avg"].double()})),
        f"{OPTIMIZER} can't be read back (3.exp_avg has another type)",
    ),
    "a moment too few": (
        _in_tensors(OPTIMIZER, lambda tensors: tensors.pop("3.exp_avg")),
        f"{OPTIMIZER} can't be read back (3.exp_avg is missing)",
    ),
    "a moment too many": (
        _in_tensors(OPTIMIZER, lambda tensors: tensors.update({"3.max_exp_avg_sq": torch.zeros(1)})),
        f"{OPTIMIZER} can't be read back (3.max_exp_avg_sq is not part of it)",
    ),
    "moments of other matrices": (
        _in_tensors(WEIGHTS, lambda tensors: tensors.pop(MATRIX)),
        f"{OPTIMIZER} can't be read back (15.exp_avg is not part of it)",
    ),
    "moments of matrices of other shapes": (
        _in_tensors(WEIGHTS, lambda tensors: tensors.update({MATRIX: tensors[MATRIX][:, 1:].contiguous()})),
        f"{OPTIMIZER} can't be read back (its matrices have other shapes)",
    ),
    "an optimiser of another step": (
        _in_tensors(OPTIMIZER, lambda tensors: tensors.update({"3.step": torch.tensor(1.0)})),
        f"{OPTIMIZER} can't be read back (it is not at step 2)",
    ),
    "steps of several numbers": (
        _in_tensors(OPTIMIZER, lambda tensors: tensors.update({"3.step": torch.tensor([2.0, 2.0])})),
        f"{OPTIMIZER} can't be read back (3.step has another shape)",
    ),
    "a schedule at another step": (
        _in_json("progress.json", last_epoch=1, rate=0.01),
        "progress.json can't be read back (the schedule is at step 1)",
    ),
    "another rate": (
        _in_json("progress.json", rate=0.5),
        "progress.json can't be read back (the schedule's learning rate differs)",
    ),
    "a rate that is none": (_in_json("progress.json", rate=float("nan")), "progress.json can't be read back ("),
    "a field too many": (_in_json("progress.json", step=5), "progress.json can't be read back ("),
    "a generator outside of its state": (
        _in_json("progress.json", numpy={"words": [1] * 624, "position": 10_000, "spare": None}),
        "progress.json can't be read back (",
    ),
    "a generator's state cut short": (
        _in_json("progress.json", python={"words": [1] * 600, "position": 1, "spare": None}),
        "progress.json can't be read back (",
    ),
    "a generator's words that are none": (
        _in_json("progress.json", python={"words": [2**32] * 624, "position": 1, "spare": None}),
        "progress.json can't be read back (",
    ),
    "a generator too few": (
        _in_tensors(GENERATORS, lambda tensors: tensors.update(other=tensors.pop("cpu"))),
        f"{GENERATORS} can't be read back (it names other generators)",
    ),
    "torch's generator cut short": (
        _in_tensors(GENERATORS, lambda tensors: tensors.update(cpu=tensors["cpu"][:10].clone())),
        f"{GENERATORS} can't be read back (cpu has another size)",
    ),
    "a generator as large as memory": (
        _in_tensors(GENERATORS, lambda tensors: tensors.update(cuda=torch.zeros(10_000, dtype=torch.uint8))),
        f"{GENERATORS} can't be read back (cuda has another size)",
    ),
    "a record of other steps": (_in_json("record.json", step=3), "record.json can't be read back ("),
    "a record of a longer training": (_in_json("record.json", total=4), "record.json counts 4 steps in all, not 3"),
    "a configuration without its digest": (
        _in_json("record.json", configuration={"lr": 0.5}),
        "record.json can't be read back (",
    ),
    "a report without a loss": (_in_json("report.json", metrics={}), "report.json can't be read back ("),
}


@pytest.mark.parametrize("what", BROKEN)
def test_contents_that_do_not_fit_are_refused(copy: Path, refusal: Callable[[], str], what: str) -> None:
    damage, said = BROKEN[what]
    damage(copy)
    assert refusal().startswith(said)


def test_a_json_file_without_end_is_not_read(copy: Path, refusal: Callable[[], str], limits: Limits) -> None:
    limits("workers.pipelines.training.resuming", _MAX_JSON_BYTES=1024**2)
    with (copy / "report.json").open("ab") as file:
        file.truncate(1024**2 + 1)
    assert refusal() == "report.json is longer than 1 MiB"


def test_matrices_of_other_modules_are_refused(training: Training, copy: Path) -> None:
    _in_tensors(WEIGHTS, lambda tensors: tensors.update({MATRIX.replace("q_proj", "gate"): tensors.pop(MATRIX)}))(copy)
    with pytest.raises(PipelineError, match="are not those of this adapter") as caught:
        training.resume(copy)
    assert caught.value.reason == "checkpoint"


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"spec": SPEC.model_copy(update={"lr": 0.02})}, r"lr \(0.01 → 0.02\)"),
        (
            {"spec": SPEC.model_copy(update={"rank": 8, "seed": 1, "max_steps": 5})},
            r"max_steps \(3 → 5\), rank \(4 → 8\), seed \(0 → 1\)",
        ),
        ({"base_revision": "decaf"}, r"the base's revision \(c0ffee → decaf\)"),
        ({"base_name": "org/other"}, r"the base's name \(org/tiny → org/other\)"),
        ({"data": "other"}, "the rows, the rows' tokens"),
        ({"eval_data": "same"}, "the held-out rows"),
        (
            {"spec": SPEC.model_copy(update={"targets": "qv"})},
            r"the target modules \(k_proj,o_proj,q_proj,v_proj → q_proj,v_proj\), targets \(attention → qv\)",
        ),
    ],
    ids=["a setting", "three settings", "revision", "base", "rows", "held-out rows", "targets"],
)
def test_a_checkpoint_of_another_training_is_refused_before_the_base_is_loaded(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], difference: str
) -> None:
    import workers.pipelines.training.train as module

    monkeypatch.setattr(module, "load_base", lambda *args, **rest: pytest.fail("the base was loaded"))
    files = {"other": tiny.write_rows(tmp_path / "other.jsonl", 13), "same": training.rows}
    options = {name: files.get(value, value) if isinstance(value, str) else value for name, value in change.items()}
    with pytest.raises(PipelineError) as caught:
        training.resume(training.checkpoint, **options)
    assert caught.value.reason == "checkpoint"
    assert caught.match(
        f"^The checkpoint of step 2 was written by a training that differs in {difference}; submit this one"
    )


def test_a_checkpoint_of_another_loop_is_refused(training: Training) -> None:
    configuration = training.configuration
    training.configuration = {**configuration, "loop": LOOP + 1}
    try:
        with pytest.raises(
            PipelineError, match=rf"differs in the number of the training loop \({LOOP} → {LOOP + 1}\);"
        ):
            training.read(training.checkpoint)
    finally:
        training.configuration = configuration


def test_another_config_of_the_base_is_named(training: Training, tmp_path: Path) -> None:
    base = Path(shutil.copytree(training.base, tmp_path / "base"))
    content = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**content, "transformers_version": "5.0.0"}))
    other = Training.__new__(Training)
    other.base, other.rows = base, training.rows
    other.resume(training.checkpoint)
    (base / "config.json").write_text(json.dumps({**content, "rms_norm_eps": 1e-3}))
    with pytest.raises(PipelineError, match="differs in the base's config;"):
        other.resume(training.checkpoint)


def test_a_training_over_a_template_with_a_date_goes_on_after_midnight(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    """Each attempt is told the day of its job, whatever the clock says; on another day it would see other tokens."""
    base = shutil.copytree(llama_base, tmp_path / "base")
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = "{{ strftime_now('%d %B') }}" + tokenizer.chat_template
    tokenizer.save_pretrained(base)
    turns = [{"role": "user", "content": "two and two?"}, {"role": "assistant", "content": "four"}]
    rows, day = write_jsonl([{"messages": turns}] * 12), date(2026, 3, 4)

    def run(out: str, *, day: date, stop: bool = False, resume: Path | None = None) -> bytes:
        calls = iter(range(10))
        kept = Checkpoints(tmp_path, must_stop=lambda: stop and next(calls) == 4, resume=resume)
        run_training(base, rows, tmp_path / out, spec=SPEC, checkpoints=kept, day=day)
        return (tmp_path / out / "adapter_model.safetensors").read_bytes()

    with pytest.raises(Interrupted):
        run("stopped", day=day, stop=True)
    checkpoint = tmp_path / "step-00000002"
    assert run("resumed", day=day, resume=checkpoint) == run("whole", day=day)
    with pytest.raises(PipelineError, match=r"differs in .*template_date \(2026-03-04 → 2026-03-05\)"):
        run("another day", day=date(2026, 3, 5), resume=checkpoint)
