"""The optimisers of a training, and what each keeps: the one table for checkpoints, their checks, and plans.

>>> OPTIMIZERS["adafactor"].state((8, 64))
{'row_var': Kept(dtype='F32', shape=(8, 1)), 'col_var': Kept(dtype='F32', shape=(1, 64)), 'step': Kept(dtype='F32', shape=())}
>>> [OPTIMIZERS[name].state_bytes((8, 64)) for name in ("adamw", "lion", "adafactor")]
[4096, 2048, 288]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

OptimizerName = Literal[
    "adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "adafactor", "lion", "schedule_free_adamw"
]
Shape = tuple[int, ...]

#: bitsandbytes keeps what belongs to smaller tensors in 32 bits; for others it keeps a scale for each 256 numbers.
_SMALL_TENSOR, _SHARE_A_SCALE = 4096, 256
#: The numbers that 8 bits can mean; all tensors share one table in memory.
_CODES = 256
_BYTES = {"F32": 4, "U8": 1}
#: The trained tensor itself, in the checkpoint of an optimiser whose adapter is another: the average.
TRAINED = "trained"


class Kept(NamedTuple):
    """A tensor of an optimiser's state."""

    #: As safetensors names it.
    dtype: str
    shape: Shape

    @property
    def size_bytes(self) -> int:
        """What it takes."""
        return _BYTES[self.dtype] * math.prod(self.shape)


def _whole(shape: Shape) -> Shape:
    return shape


def _of_rows(shape: Shape) -> Shape | None:
    return (*shape[:-1], 1) if len(shape) > 1 else None


def _of_columns(shape: Shape) -> Shape | None:
    return (*shape[:-2], 1, shape[-1]) if len(shape) > 1 else None


def _of_vectors(shape: Shape) -> Shape | None:
    return shape if len(shape) < 2 else None


@dataclass(frozen=True)
class Optimizer:
    """What is known of an optimiser without its library."""

    name: OptimizerName
    #: What it keeps for each trained tensor, by the library's names: the shape by that of the tensor, None if it has none.
    tensors: Mapping[str, Callable[[Shape], Shape | None]]
    #: Whether it counts the steps of each tensor, as "step".
    counts_steps: bool = True
    #: The numbers that it keeps for each group of tensors, which no option says.
    numbers: tuple[str, ...] = ()
    #: Whether what it keeps for large tensors has 8 bits instead of 32.
    in_8_bits: bool = False
    #: Whether that moves to the machine's memory when the GPU's is full.
    paged: bool = False
    #: Whether it is only for CUDA GPUs.
    needs_card: bool = False
    #: The extra of ours that brings its library, and the module; None: every worker has it.
    extra: tuple[str, str] | None = None
    #: Whether the adapter is the average of what it trains.
    averages: bool = False
    #: Whether adam_beta1 and adam_beta2 are its own.
    is_adam: bool = True

    def state(self, shape: Shape) -> dict[str, Kept]:
        """Return what it keeps for a trained tensor of a shape, by name."""
        kept: dict[str, Kept] = {}
        numbers = math.prod(shape)
        packed = self.in_8_bits and numbers >= _SMALL_TENSOR
        for name, form in self.tensors.items():
            if (own := form(shape)) is None:
                continue
            kept[name] = Kept("U8" if packed else "F32", own)
            if packed:
                number = name.removeprefix("state")
                kept[f"qmap{number}"] = Kept("F32", (_CODES,))
                kept[f"absmax{number}"] = Kept("F32", (math.ceil(numbers / _SHARE_A_SCALE),))
        if self.counts_steps:
            kept["step"] = Kept("F32", ())
        return kept

    def stored_state(self, shape: Shape) -> dict[str, Kept]:
        """Return what a checkpoint keeps for it, by name."""
        return self.state(shape) | ({TRAINED: Kept("F32", shape)} if self.averages else {})

    def moment_bytes(self, shape: Shape) -> int:
        """Return what the tensors of its table take for a trained tensor of a shape."""
        kept = self.state(shape)
        return sum(kept[name].size_bytes for name in self.tensors.keys() & kept.keys())

    def scale_bytes(self, shape: Shape) -> int:
        """Return what their scales take, if they have 8 bits."""
        return sum(kept.size_bytes for name, kept in self.state(shape).items() if name.startswith("absmax"))

    def state_bytes(self, shape: Shape) -> int:
        """Return what all of it takes, without its count of steps."""
        return self.moment_bytes(shape) + self.scale_bytes(shape)

    @property
    def about(self) -> str:
        """What it keeps, in words.

        >>> OPTIMIZERS["schedule_free_adamw"].about
        'keeps z, exp_avg_sq for each trained tensor, and k, weight_sum, lr_max for each group of them'
        """
        said = f"keeps {', '.join(self.tensors)} for each trained tensor"
        if self.in_8_bits:
            said += f", in 8 bits from {_SMALL_TENSOR:,} numbers on"
        return said + (f", and {', '.join(self.numbers)} for each group of them" if self.numbers else "")


#: bitsandbytes' names for the two moments.
_STATES = {"state1": _whole, "state2": _whole}
_TABLE = (
    # arXiv:1711.05101, by torch.
    Optimizer("adamw", {"exp_avg": _whole, "exp_avg_sq": _whole}),
    # arXiv:2110.02861, by bitsandbytes, as the others that need a card.
    Optimizer("adamw_8bit", _STATES, in_8_bits=True, needs_card=True),
    Optimizer("paged_adamw", _STATES, paged=True, needs_card=True),
    Optimizer("paged_adamw_8bit", _STATES, in_8_bits=True, paged=True, needs_card=True),
    # arXiv:1804.04235, by torch.
    Optimizer("adafactor", {"row_var": _of_rows, "col_var": _of_columns, "variance": _of_vectors}, is_adam=False),
    # arXiv:2302.06675; bitsandbytes' has a decay of its own on some devices.
    Optimizer("lion", {"exp_avg": _whole}, counts_steps=False, extra=("lion", "lion_pytorch"), is_adam=False),
    # arXiv:2405.15682, by its authors.
    Optimizer(
        "schedule_free_adamw",
        {"z": _whole, "exp_avg_sq": _whole},
        counts_steps=False,
        numbers=("k", "weight_sum", "lr_max"),
        extra=("schedule-free", "schedulefree"),
        averages=True,
    ),
)
OPTIMIZERS: dict[OptimizerName, Optimizer] = {each.name: each for each in _TABLE}
assert OPTIMIZERS.keys() == set(get_args(OptimizerName))
