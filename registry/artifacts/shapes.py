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
import time
from collections.abc import Iterator, Mapping
from typing import TypeVar

from registry.errors import Verification

V = TypeVar("V")

#: A key of `rank_pattern` that is a name and no pattern: its dots stand for themselves.
_LITERAL = re.compile(r"[A-Za-z0-9_.\-]+")
#: The pieces of patterns that are tried at all: no group is repeated, and nothing looks ahead or back.
_SAFE = re.compile(
    r"(?:[A-Za-z0-9_\-^$.|]|\\[.dw\-]|\[[A-Za-z0-9_\-]+\]|\((?:\?:)?|\)(?![*+?{])|(?<![(*+?|^])[*+?]){1,200}"
)
#: Each of these multiplies the ways in which a pattern may be tried.
_MOST_REPETITIONS, _MOST_GROUPS, _MOST_ALTERNATIVES = 2, 2, 16
_LONGEST_NAME = 200
#: Processor time for a file's patterns; a thousand modules with ten patterns need a hundredth of it.
_PATTERNS_S = 5.0


def suffixes(name: str) -> Iterator[str]:
    """Yield a dotted name, and what is left of it after each dot."""
    yield name
    dot = name.find(".")
    while dot >= 0:
        yield name[dot + 1 :]
        dot = name.find(".", dot + 1)


class BaseShapes:
    """The shapes of a base's tensors, found by the names that PEFT has for them."""

    def __init__(self, tensors: Mapping[str, list[int]], layers: list[int] | None = None) -> None:
        self._tensors = tensors
        #: For a model that stacks the base's layers anew: which of them each of its layers is.
        self._layers = layers or []
        self._by_tail: dict[str, list[str]] = {}
        for name in tensors:
            self._by_tail.setdefault(_tail(name), []).append(name)

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
    """The rank of each module, as PEFT's `get_pattern_key` finds it: the first pattern that fits the name or its end.

    A stranger's pattern may take a time without bound to try: only plain ones are tried, within a budget.
    """

    def __init__(self, patterns: Mapping[str, int | float], default: int) -> None:
        self._default = default
        #: Position and rank by literal name.
        self._literal: dict[str, tuple[int, int | float]] = {}
        self._patterns: list[tuple[int, re.Pattern[str], int | float]] = []
        self._left_s = _PATTERNS_S
        for position, (key, rank) in enumerate(patterns.items()):
            if _LITERAL.fullmatch(key):
                self._literal[key] = (position, rank)
            else:
                self._patterns.append((position, _compiled(key), rank))

    def of(self, module: str) -> int | float:
        """Return a module's rank. Raises Verification where the patterns take too long."""
        found = [self._literal[suffix] for suffix in suffixes(module) if suffix in self._literal]
        best, rank = min(found, default=(None, self._default))
        if not self._patterns:
            return rank
        if len(module) > _LONGEST_NAME:
            raise Verification(
                f"{module[:80]}… is too long a name to try patterns on; write module names in rank_pattern"
            )
        started = time.thread_time()
        for position, pattern, given in self._patterns:
            if best is not None and position > best:
                break
            if pattern.match(module):
                rank = given
                break
        self._left_s -= time.thread_time() - started
        if self._left_s < 0:
            raise Verification(
                "rank_pattern takes too long to try; write module names in place of patterns and push again"
            )
        return rank


def _compiled(key: str) -> re.Pattern[str]:
    """Compile a plain pattern. Raises Verification for one that is none, or more than that."""
    bare = re.sub(r"\\.|\[[^\]]*\]", "", key).replace("(?:", "(")
    plain = (
        _SAFE.fullmatch(key)
        and sum(map(bare.count, "*+?")) <= _MOST_REPETITIONS
        and bare.count("(") <= _MOST_GROUPS
        and bare.count("|") <= _MOST_ALTERNATIVES
    )
    if plain:
        try:
            return re.compile(rf"(.*\.)?({key})$")
        except re.error:
            pass
    raise Verification(
        f"rank_pattern has {key[:80]!a}, which is more of a pattern than is tried here; write module names and push again"
    )
