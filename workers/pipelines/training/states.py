"""What a checkpoint keeps of the optimiser, the schedule and the random generators: tensors and numbers, no pickles."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy
import torch
from pydantic import Field, FiniteFloat

from sdk.schemas.optimizers import TRAINED, Optimizer
from sdk.schemas.wire import Wire

#: The version that `random.getstate()` returns.
_PYTHON_VERSION = 3


class Twister(Wire):
    """The state of a Mersenne twister, which Python's and numpy's random generators use."""

    #: 32 bits each.
    words: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=624, max_length=624)]
    #: The index of the next word; 624: new ones are made first.
    position: Annotated[int, Field(ge=0, le=624)]
    #: The second number of a pair from a normal distribution, if one is left over.
    spare: float | None


class Standing(Wire):
    """The state of the schedule and the random generators."""

    #: Steps of the optimiser; a gradient scaler may have skipped some.
    last_epoch: Annotated[int, Field(ge=0)]
    #: The learning rate of the next step, for the first group of parameters.
    rate: Annotated[float, Field(ge=0)]
    #: What the optimiser's table names for each group of parameters, by name.
    numbers: Annotated[
        list[dict[str, FiniteFloat]], Field(max_length=4, default_factory=list, exclude_if=lambda value: not value)
    ]
    python: Twister
    numpy: Twister


@dataclass(frozen=True)
class States:
    """What a checkpoint keeps of the optimiser, the schedule and the random generators."""

    standing: Standing
    #: "0.step", "0.exp_avg", "0.exp_avg_sq", "1.step" …: by matrix, in the order of the optimiser's parameters, what its table
    #: names.
    optimizer: dict[str, torch.Tensor]
    #: "cpu", and "cuda" if there is one: torch's own generators.
    generators: dict[str, torch.Tensor]


def states_of(optimizer: Any, table: Optimizer, *, taken: int, rate: float) -> States:
    """Return the states of an optimiser after so many steps, and of all random generators, without drawing from any; `rate`
    is the learning rate of the next step.
    """
    kept = {number: dict(_each(parts)) for number, parts in optimizer.state_dict()["state"].items()}
    if table.averages:
        for number, parameter in enumerate(_parameters(optimizer)):
            kept[number][TRAINED] = parameter
    moments = {
        f"{number}.{name}": torch.as_tensor(value, dtype=None if torch.is_tensor(value) else torch.float32)
        .detach()
        .to("cpu", copy=True)
        .contiguous()
        for number, parts in kept.items()
        for name, value in parts.items()
    }
    version, words, spare = random.getstate()
    twister: Any = numpy.random.get_state()
    if version != _PYTHON_VERSION:
        raise ValueError("Python's generator is of a kind that a checkpoint can't hold")
    standing = Standing(
        last_epoch=taken,
        rate=rate,
        numbers=[{name: group[name] for name in table.numbers} for group in optimizer.param_groups if table.numbers],
        python=Twister(words=list(words[:-1]), position=words[-1], spare=spare),
        numpy=Twister(words=twister[1].tolist(), position=twister[2], spare=twister[4] if twister[3] else None),
    )
    return States(standing, moments, generator_states())


def _parameters(optimizer: Any) -> list[Any]:
    """Return the parameters in the order of their numbers."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _each(parts: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what an optimiser keeps for one matrix, by name; bitsandbytes has most of it one level deeper."""
    for name, value in parts.items():
        if isinstance(value, dict):
            yield from _each(value)
        else:
            yield name, value


def restore_optimizer(moments: dict[str, torch.Tensor], numbers: list[dict[str, float]], optimizer: Any) -> None:
    """Give an optimiser the states of a checkpoint, and its parameters what was trained if that is not the adapter; everything
    else follows the training's settings. Raises ValueError if it has other groups of parameters.
    """
    kept: dict[int, dict[str, Any]] = {}
    for name, value in moments.items():
        number, _, part = name.partition(".")
        kept.setdefault(int(number), {})[part] = value
    parameters = _parameters(optimizer)
    for index, parts in kept.items():
        if "state1" in parts:
            # bitsandbytes counts steps as plain numbers.
            parts["step"] = int(parts["step"])
        if (trained := parts.pop(TRAINED, None)) is not None:
            if trained.shape != parameters[index].shape:
                raise ValueError(f"{index}.{TRAINED} is of another matrix")
            with torch.no_grad():
                parameters[index].copy_(trained)
    if len(numbers) not in (0, len(optimizer.param_groups)):
        raise ValueError(f"it has {len(numbers)} groups, not {len(optimizer.param_groups)}")
    optimizer.load_state_dict({"state": kept, "param_groups": optimizer.state_dict()["param_groups"]})
    for group, own in zip(optimizer.param_groups, numbers, strict=False):
        # As it counts: whole numbers stay whole.
        group.update({name: type(group[name])(value) for name, value in own.items()})


def restore_generators(standing: Standing, generators: dict[str, torch.Tensor]) -> None:
    """Restore all random generators from a checkpoint."""
    random.setstate(python_state(standing.python))
    numpy.random.set_state(numpy_state(standing.numpy))
    set_generators(generators)


def generator_states() -> dict[str, torch.Tensor]:
    """Return the states of torch's own generators: "cpu", and "cuda" if there is one."""
    return {
        "cpu": torch.get_rng_state(),
        **({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}),
    }


def set_generators(generators: dict[str, torch.Tensor]) -> None:
    """Restore torch's own generators from the result of `generator_states`."""
    torch.set_rng_state(generators["cpu"])
    if "cuda" in generators and torch.cuda.is_available():
        torch.cuda.set_rng_state(generators["cuda"])


def python_state(twister: Twister) -> tuple[Any, ...]:
    """Return a state in the form of Python's generator."""
    return (_PYTHON_VERSION, (*twister.words, twister.position), twister.spare)


def numpy_state(twister: Twister) -> tuple[Any, ...]:
    """Return a state in the form of numpy's generator."""
    words = numpy.array(twister.words, dtype=numpy.uint32)
    return ("MT19937", words, twister.position, int(twister.spare is not None), twister.spare or 0.0)
