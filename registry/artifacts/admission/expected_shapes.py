"""What an adapter's tensors are held against: the base's shapes by a module's name, and its rank by a pattern.

Both are asked for each of up to hundreds of thousands of names that a stranger wrote, so neither may search a list.

>>> base = BaseShapes({"h.0.attn.c_attn.weight": [16, 48]})
>>> base.shapes("transformer.h.0.attn.c_attn.weight"), base.shapes("transformer.h.1.attn.c_attn.weight")
([[16, 48]], [])
>>> Ranks({"q_proj": 4, r"layers\\.0\\..*": 2}, 8).of("model.layers.0.v_proj")
2
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from registry.errors import Verification
from sdk.formats.peft_patterns import Budget, BudgetError, ExpressionError, ModuleValues

_LAYER = re.compile(r"[^.]+\.[0-9]+")
_SINGLE_EXPERT = re.compile(r"([^.]+\.[0-9]+)\..*experts\.([0-9]{1,6})\.[^.]+\.weight")
#: A thousand modules with ten patterns need a hundredth of it; all are some two seconds.
_PATTERN_STEPS = 10_000_000


class BaseShapes:
    """The shapes of a base's tensors, found by the names that PEFT has for them."""

    def __init__(self, tensors: Mapping[str, list[int]], layers: list[int] | None = None) -> None:
        self._tensors = tensors
        #: For a model that stacks the base's layers anew: which of them each of its layers is.
        self._layers = layers or []
        self._by_tail: dict[str, list[str]] = {}
        #: Layer to the number of each of its single experts, and to the shapes of their weights.
        self._experts: dict[str, tuple[set[int], set[tuple[int, ...]]]] = {}
        for name, shape in tensors.items():
            tail = _tail(name)
            self._by_tail.setdefault(tail, []).append(name)
            if (single := _SINGLE_EXPERT.fullmatch(tail)) and len(shape) == 2:
                numbers, shapes = self._experts.setdefault(single[1], (set(), set()))
                numbers.add(int(single[2]))
                shapes.add(tuple(shape))

    @property
    def known(self) -> bool:
        """Whether anything is known of the base's tensors."""
        return bool(self._tensors)

    def shapes(self, name: str) -> list[list[int]]:
        """Return the shapes that the tensor may have: none where the base lacks it, several where names are ambiguous."""
        wanted = self._original(name)
        if wanted is None:
            return []
        exact = self._tensors.get(wanted)
        if exact is not None:
            return [exact]
        # Some weight files leave out the model's own prefix ("transformer."), or carry one more ("model.").
        alike = self._by_tail.get(_tail(wanted), [])
        near = [other for other in alike if wanted.endswith("." + other) or other.endswith("." + wanted)]
        # Others have another prefix than the model that the library makes of them: only what follows it tells.
        renamed = near or (alike if any(part.isdigit() for part in wanted.split(".")) else [])
        return [self._tensors[other] for other in renamed]

    def stacked(self, module: str) -> list[list[int]]:
        """Return the shapes that stacked parameters of a module of experts may have whose files hold expert by expert.

        Two of like shape may be stacked as one, the gate and what it lets pass.
        """
        wanted = self._original(module)
        layer = None if wanted is None else _LAYER.match(_tail(f"{wanted}."))
        numbers, shapes = self._experts.get(layer[0], (set(), set())) if layer else (set(), set())
        return [[len(numbers), times * out, into] for out, into in sorted(shapes) for times in (1, 2)]

    def _original(self, name: str) -> str | None:
        """Return the name in the base of what a stacked layer was made of; None for a layer that there is not."""
        if not self._layers:
            return name
        parts = name.split(".")
        for position, part in enumerate(parts):
            if part.isdigit():
                layer = int(part)
                if layer >= len(self._layers):
                    return None
                parts[position] = str(self._layers[layer])
                break
        return ".".join(parts)


def _tail(name: str) -> str:
    """Return a tensor's name from the list that its first number counts in; without a number, its last two parts."""
    parts = name.split(".")
    first = next((position for position, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[max(first - 1, 0) :])


class Ranks:
    """The rank of each module, or its alpha, as PEFT finds it by a pattern, within a budget of steps for the pattern."""

    def __init__(self, patterns: Mapping[str, int | float], default: float, *, key: str = "rank_pattern") -> None:
        self._key = key
        try:
            self._values = ModuleValues(patterns, default, Budget(_PATTERN_STEPS))
        except ExpressionError as error:
            raise Verification(
                f"{key} has an expression that can't be tried, for {error}; write module names and push again"
            ) from error

    def of(self, module: str) -> int | float:
        """Return a module's rank or alpha. Raises Verification where the patterns take too long."""
        try:
            return self._values.of(module)
        except BudgetError as error:
            raise Verification(
                f"{self._key} takes too long to try; write module names in place of patterns and push again"
            ) from error
