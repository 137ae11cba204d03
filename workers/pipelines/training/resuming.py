"""Read a checkpoint back: nothing in it is executed, and anything broken, or of another training, is refused by name."""

from __future__ import annotations

import contextlib
import json
import math
import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file

from sdk.formats.adapter_files import CONFIG_FILE, SERVING_FILES, WEIGHTS_FILE
from sdk.lora.redistribution import is_redistribution
from sdk.lora.tensors import open_file
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.optimizers import Kept, Optimizer
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.version_records import SpecialTokens
from sdk.schemas.wire import JsonScalar
from workers.pipelines.errors import PipelineError, first_line
from workers.pipelines.model.torch_tensors import FORMAT_TYPES, as_torch
from workers.pipelines.training.checkpoints import (
    BEST_NAME,
    FILES,
    GENERATORS_NAME,
    LOSSES_NAME,
    OPTIMIZER_NAME,
    OPTIONAL_FILES,
    PROGRESS_NAME,
    RECORD_NAME,
    REPORT_NAME,
    Record,
    Resumed,
    broken_checkpoint,
)
from workers.pipelines.training.optimising import Schedule
from workers.pipelines.training.states import Standing, numpy_state, python_state

#: The words for a configuration's keys; settings of the spec have their own names.
_WORDS = {
    "base": "the base's name",
    "base_revision": "the base's revision",
    "base_config": "the base's config",
    "data": "the rows",
    "tokens": "the rows' tokens",
    "eval_data": "the held-out rows",
    "test_data": "the rows of the last test",
    "target_modules": "the target modules",
    "parent": "the version to continue",
    "loop": "the number of the training loop",
}
#: Digests, which mean nothing to people.
_UNREADABLE = frozenset({"base_config", "data", "tokens", "eval_data", "test_data", "parent"})
_MOST_DIFFERENCES = 5
#: The limit for each JSON file: each step writes about a hundred bytes, and a foreign file may have any length.
_MAX_JSON_BYTES = 64 * 1024 * 1024
#: No adapter has this many matrices, with three tensors each.
_MOST_TENSORS = 1_000_000
#: It has 16 bytes, and may have more in future.
_MAX_CUDA_STATE_BYTES = 8192


def read_checkpoint(
    folder: Path, *, configuration: Mapping[str, JsonScalar], spec: TrainingSpec, schedule: Schedule
) -> Resumed:
    """Check a whole checkpoint, and that it belongs to the training that `configuration` describes.

    It contains only tensors and JSON. Sizes, types and names are checked before values. Raises PipelineError
    ("checkpoint").
    """
    check_files(folder)
    record = _read_record(folder)
    if record.configuration != configuration:
        raise PipelineError(
            FailureReason.CHECKPOINT,
            f"The checkpoint of step {record.step} was written by a training that differs in"
            f" {_differences(record.configuration, configuration)}; submit this one again from the beginning.",
        )
    if record.total != schedule.total_steps:
        raise broken_checkpoint(f"{RECORD_NAME} counts {record.total} steps in all, not {schedule.total_steps}")
    return Resumed(folder, record, _check_states(folder, record, spec, schedule))


def moved_ranks(folder: Path, lora: LoraConfig, spec: TrainingSpec) -> LoraConfig:
    """Return the configuration with the ranks that EVA assigned before the first step. Raises PipelineError ("checkpoint")."""
    with _read(REPORT_NAME):
        theirs = TrainingReport.model_validate_json((folder / REPORT_NAME).read_bytes()).lora
        _require(is_redistribution(spec, theirs), "its ranks are none that eva_rho allows")
    return lora.model_copy(update={"rank_pattern": theirs.rank_pattern, "alpha_pattern": theirs.alpha_pattern})


def special_tokens_of(folder: Path) -> SpecialTokens:
    """Return how rows became tokens in the training of a checkpoint. Raises PipelineError ("checkpoint")."""
    check_files(folder)
    with _read(REPORT_NAME):
        report = TrainingReport.model_validate_json((folder / REPORT_NAME).read_bytes())
    return report.record.special_tokens or "added"


def threads_of(folder: Path) -> int | None:
    """Return in how many threads a checkpoint of a member of a sweep was computed. Raises PipelineError ("checkpoint")."""
    check_files(folder)
    threads = _read_record(folder).configuration.get("threads")
    return threads if type(threads) is int else None


def check_files(folder: Path) -> None:
    """Check that a folder contains a checkpoint's files, all of them plain files, and nothing else."""
    try:
        found = {path.name: path for path in folder.iterdir()}
    except OSError as error:
        raise broken_checkpoint(f"its folder can't be read ({error.strerror})") from error
    odd = sorted((found.keys() - set(SERVING_FILES) - OPTIONAL_FILES) ^ FILES)
    if odd:
        raise broken_checkpoint(f"{odd[0]} {'is missing' if odd[0] in FILES else 'does not belong there'}")
    linked = sorted(name for name, path in found.items() if path.is_symlink() or not path.is_file())
    if linked:
        raise broken_checkpoint(f"{linked[0]} is not a plain file")
    long = sorted(
        name for name, path in found.items() if path.suffix == ".json" and path.stat().st_size > _MAX_JSON_BYTES
    )
    if long:
        raise broken_checkpoint(f"{long[0]} is longer than {_MAX_JSON_BYTES // 1024**2} MiB")


def _read_record(folder: Path) -> Record:
    with _read(RECORD_NAME):
        record = Record.model_validate_json((folder / RECORD_NAME).read_bytes())
    with _read(REPORT_NAME):
        TrainingReport.model_validate_json((folder / REPORT_NAME).read_bytes())
    return record


def _check_states(folder: Path, record: Record, spec: TrainingSpec, schedule: Schedule) -> Standing:
    with _read(CONFIG_FILE):
        _require(isinstance(json.loads((folder / CONFIG_FILE).read_bytes()), dict), "it is not a JSON object")
    with _read(WEIGHTS_FILE):
        shapes = _shapes(folder / WEIGHTS_FILE, torch.float32)
        _check_finite(folder / WEIGHTS_FILE)
    _check_looks(folder, record, spec, shapes)
    # A gradient scaler skips steps; without one every step was taken.
    fewest = record.step if record.scaler is None else 0
    with _read(PROGRESS_NAME):
        standing = Standing.model_validate_json((folder / PROGRESS_NAME).read_bytes())
        _require(fewest <= standing.last_epoch <= record.step, f"the schedule is at step {standing.last_epoch}")
        _require(standing.rate == spec.lr * schedule.share(standing.last_epoch), "the schedule's learning rate differs")
        _require(
            all(each.keys() == set(spec.optimizer.numbers) for each in standing.numbers)
            and bool(standing.numbers) == bool(spec.optimizer.numbers),
            "the optimiser has other numbers",
        )
        _require(
            all(each.get("k", standing.last_epoch) == standing.last_epoch for each in standing.numbers),
            "the optimiser is at another step",
        )
        _check_twisters(standing)
    with _read(OPTIMIZER_NAME):
        steps = _check_moments(folder / OPTIMIZER_NAME, list(shapes.values()), spec.optimizer)
        _require(all(fewest <= step <= record.step for step in steps), f"it is not at step {record.step}")
    with _read(GENERATORS_NAME):
        _check_generators(folder / GENERATORS_NAME)
    return standing


def _check_looks(folder: Path, record: Record, spec: TrainingSpec, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that what is kept of looks is that of this training's looks."""
    looks = record.look_state.looks
    steps = [look.step for look in looks]
    with _read(RECORD_NAME):
        _require(
            steps == sorted(set(steps)) and all(step <= record.step for step in steps), "its looks are out of order"
        )
        _require(all("loss" in look.scores for look in looks), "a look has no loss")
    # Of others nothing is kept.
    steps = [look.step for look in looks if not look.for_sweep]
    kept = {LOSSES_NAME: bool(steps), BEST_NAME: spec.keeps_best and any(steps)}
    for name, has in kept.items():
        if (folder / name).exists() != has:
            raise broken_checkpoint(f"{name} {'is missing' if has else 'does not belong there'}")
    if kept[LOSSES_NAME]:
        with _read(LOSSES_NAME):
            found = _shapes(folder / LOSSES_NAME, torch.float64)
            wanted = {"lowest", "weights", *(["best"] if any(steps) else [])}
            _require(found.keys() == wanted and len(set(found.values())) == 1, "it holds other numbers")
            _check_finite(folder / LOSSES_NAME)
    if kept[BEST_NAME]:
        with _read(BEST_NAME):
            _require(_shapes(folder / BEST_NAME, torch.float32) == shapes, "its matrices are not those of this adapter")
            _check_finite(folder / BEST_NAME)


def _check_twisters(standing: Standing) -> None:
    """Check the states of the random generators by loading them into other generators."""
    random.Random().setstate(python_state(standing.python))  # noqa: S311  # nothing is drawn
    numpy.random.RandomState().set_state(numpy_state(standing.numpy))


def _check_moments(path: Path, matrices: list[tuple[int, ...]], optimizer: Optimizer) -> list[float]:
    """Check the states of an optimiser over matrices of these shapes; return its counts of steps."""
    found = _typed_shapes(path)
    if not found:
        # No step was taken yet: a gradient scaler skipped all of them.
        return []
    by_matrix: dict[str, dict[str, Kept]] = {}
    for name, what in found.items():
        number, _, part = name.partition(".")
        by_matrix.setdefault(number, {})[part] = what
    odd = sorted(by_matrix.keys() ^ {str(number) for number in range(len(matrices))})
    if odd:
        first = next(iter(optimizer.tensors))
        raise ValueError(f"{odd[0]}.{first} is {'not part of it' if odd[0] in by_matrix else 'missing'}")
    states = {shape: optimizer.stored_state(shape) for shape in set(matrices)}
    for number, parts in by_matrix.items():
        _check_state(number, parts, states.values())
    wanted = Counter(frozenset(states[shape].items()) for shape in matrices)
    _require(
        Counter(frozenset(parts.items()) for parts in by_matrix.values()) == wanted, "its matrices have other shapes"
    )
    _check_finite(path)
    held = open_file(path, any_dtype=True).tensors()
    return [float(as_torch(held[name])) for name in found if name.endswith(".step")]


def _check_state(number: str, parts: dict[str, Kept], states: Collection[dict[str, Kept]]) -> None:
    """Check that what is kept for one matrix is what the optimiser keeps for some matrix of the adapter. Raises ValueError."""
    nearest = max(states, key=lambda state: len(state.items() & parts.items()))
    if odd := sorted(parts.keys() ^ nearest.keys()):
        raise ValueError(f"{number}.{odd[0]} is {'missing' if odd[0] in nearest else 'not part of it'}")
    for name, kept in nearest.items():
        _require(parts[name].dtype == kept.dtype, f"{number}.{name} has another type")
        _require(parts[name].shape == kept.shape, f"{number}.{name} has another shape")


def _check_generators(path: Path) -> None:
    """Check the states of torch's random generators by loading them into other generators."""
    own = torch.Generator().get_state()
    found = _shapes(path, torch.uint8)
    _require(found.keys() - {"cuda"} == {"cpu"}, "it names other generators")
    _require(found["cpu"] == tuple(own.shape), "cpu has another size")
    _require(math.prod(found.get("cuda", ())) <= _MAX_CUDA_STATE_BYTES, "cuda has another size")
    states = load_file(path)
    torch.Generator().set_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.Generator("cuda").set_state(states["cuda"])


def _shapes(path: Path, dtype: torch.dtype) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a file without reading values. Raises ValueError for another type."""
    found = _typed_shapes(path)
    for name, (kind, _) in found.items():
        _require(kind == FORMAT_TYPES[dtype], f"{name} has another type")
    return {name: shape for name, (_, shape) in found.items()}


def _typed_shapes(path: Path) -> dict[str, Kept]:
    """Return safetensors' type name and the shape of each tensor of a file."""
    found = open_file(path, any_dtype=True).tensors()
    _require(len(found) <= _MOST_TENSORS, "it holds too many tensors")
    return {name: Kept(tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()}


def _check_finite(path: Path) -> None:
    """Check each tensor of a file separately."""
    for name, tensor in open_file(path, any_dtype=True).tensors().items():
        _require(bool(as_torch(tensor).isfinite().all()), f"{name} is not finite")


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _differences(theirs: Mapping[str, JsonScalar], ours: Mapping[str, JsonScalar]) -> str:
    parts = []
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) == ours.get(name):
            continue
        word = _WORDS.get(name, name)
        parts.append(word if name in _UNREADABLE else f"{word} ({theirs.get(name)} → {ours.get(name)})")
    more = len(parts) - _MOST_DIFFERENCES
    return ", ".join(parts[:_MOST_DIFFERENCES]) + (f" and {more} more" if more > 0 else "")


@contextlib.contextmanager
def _read(name: str) -> Iterator[None]:
    """Name the file in any error raised by reading it: a crafted one can make its reader raise anything."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise broken_checkpoint(f"{name} can't be read back ({first_line(error)})") from error
