r"""How PEFT finds modules by the names and expressions in an `adapter_config.json`, and which of these a config may hold.

PEFT passes each expression to `re`, for each module, whenever the adapter is loaded. So a config may have only plain
expressions, and few enough to try quickly: `unfit` finds those that can't stay. Here they are never passed to `re`, so
a config can be examined before it is known to be safe.

>>> values = ModuleValues({"q_proj": 32, r"layers\.0\..+": 4}, 16, Budget(10_000))
>>> [values.of(f"model.layers.{name}") for name in ("1.self_attn.q_proj", "0.mlp.up_proj", "1.mlp.up_proj")]
[32, 4, 16]
>>> for finding in unfit({"exclude_modules": "(a+)+b"}):
...     print(finding.key, finding.expression, finding.reason)
exclude_modules (a+)+b it repeats a group
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar

from sdk.formats.expression_cost import tries
from sdk.formats.expressions import Automaton, Budget, BudgetError, ExpressionError

__all__ = [
    "Budget",
    "BudgetError",
    "ExpressionError",
    "ModuleValues",
    "Targets",
    "UnfitPattern",
    "is_name",
    "suffixes",
    "unfit",
]

V = TypeVar("V")

#: Keys whose module names may be expressions, each for the whole name or what follows one of its dots.
VALUE_KEYS: Final = ("alpha_pattern", "rank_pattern")
#: Keys that are a list of names, or one expression for the whole name.
SELECTION_KEYS: Final = ("exclude_modules", "target_modules")
#: The most names and expressions in one of VALUE_KEYS: PEFT tries each on every module, and compiles each again if
#: there are more than `re` caches.
MAX_VALUES: Final = 1024
#: The most characters of all their names and expressions together.
MAX_VALUE_CHARACTERS: Final = 64 * 1024
#: The most characters of all expressions of a config together.
MAX_EXPRESSION_CHARACTERS: Final = 16 * 1024
#: What all expressions of a config may take together on one module's name, as `expression_cost.tries` counts. At the
#: 0.1 µs that a try was seen to take, that is a hundredth of a second.
MAX_TRIES: Final = 100_000
#: The most names in `layers_pattern`, each of which is tried on each module; models have up to three lists of layers.
MAX_LISTS: Final = 16
#: An expression of VALUE_KEYS is tried after each dot of a name.
_DOTS: Final = 8

#: How many characters a step copies: as they are, and letter by letter.
_COPIED: Final = 256
_LETTERS: Final = 8

#: A key that is a name. PEFT treats it as an expression too, in which a dot stands for any character.
_NAME = re.compile(r"[A-Za-z0-9_.\-]+")
#: How PEFT finds the number of a layer in a module's name.
_ANY_LAYER = re.compile(r".*?\.[^.]*\.([0-9]+)\.")


class UnfitPattern(NamedTuple):
    """An expression that a config can't have, or one too many."""

    key: str
    expression: str
    #: The reason, as a clause: "it repeats a group".
    reason: str


def is_name(key: str) -> bool:
    """Whether a key is a module's name rather than an expression."""
    return _NAME.fullmatch(key) is not None


def suffixes(name: str) -> Iterator[str]:
    """Yield a dotted name, and what is left of it after each dot."""
    yield name
    dot = name.find(".")
    while dot >= 0:
        yield name[dot + 1 :]
        dot = name.find(".", dot + 1)


def unfit(config: Mapping[str, Any]) -> Iterator[UnfitPattern]:
    """Find the expressions that a config can't have; values of another kind than PEFT writes are skipped."""
    left, characters = MAX_TRIES, 0
    for key, expression, factor in _expressions(config):
        characters += len(expression)
        if characters > MAX_EXPRESSION_CHARACTERS:
            yield UnfitPattern(
                key,
                expression,
                f"together with those before it, it is longer than {MAX_EXPRESSION_CHARACTERS // 1024} KiB",
            )
            break
        try:
            left -= tries(expression) * factor
        except ExpressionError as error:
            yield UnfitPattern(key, expression, str(error))
            continue
        if left < 0:
            yield UnfitPattern(key, expression, "trying it and those before it takes too long")
    characters = 0
    for key in VALUE_KEYS:
        patterns = config.get(key)
        if not isinstance(patterns, dict) or not patterns:
            continue
        characters += sum(map(len, patterns))
        if len(patterns) > MAX_VALUES:
            yield UnfitPattern(key, next(iter(patterns)), f"there are more than {MAX_VALUES}")
        elif characters > MAX_VALUE_CHARACTERS:
            yield UnfitPattern(
                key, next(iter(patterns)), f"together they are longer than {MAX_VALUE_CHARACTERS // 1024} KiB"
            )


def _expressions(config: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yield each expression with its key, and how many times PEFT may try it on one name."""
    for key in SELECTION_KEYS:
        if isinstance(value := config.get(key), str):
            yield key, value, 1
    for key in VALUE_KEYS:
        if isinstance(value := config.get(key), dict):
            for name in value:
                if isinstance(name, str) and not is_name(name):
                    yield key, name, _DOTS


class _Names:
    """The names among the keys of a pattern, found without trying each: a dot in them stands for any character."""

    def __init__(self) -> None:
        #: Length, then the places of the dots, then the name, to its position.
        self._of: dict[int, dict[tuple[int, ...], dict[str, int]]] = {}

    def add(self, name: str, position: int) -> None:
        dots = tuple(at for at, letter in enumerate(name) if letter == ".")
        self._of.setdefault(len(name), {}).setdefault(dots, {}).setdefault(name, position)

    def first(self, module: str, budget: Budget) -> int | None:
        best = None
        for end in suffixes(module):
            # A long name is copied once for each of its dots, and again, letter by letter, for each arrangement of dots.
            budget.spend(1 + len(end) // _COPIED)
            for dots, names in self._of.get(len(end), {}).items():
                budget.spend(2 + len(end) // _LETTERS)
                position = names.get(_dotted(end, dots))
                if position is not None and (best is None or position < best):
                    best = position
        return best


def _dotted(name: str, dots: tuple[int, ...]) -> str:
    if all(name[at] == "." for at in dots):
        return name
    letters = list(name)
    for at in dots:
        letters[at] = "."
    return "".join(letters)


class ModuleValues(Generic[V]):
    """The value of each module in `rank_pattern` or `alpha_pattern`, as PEFT's `get_pattern_key` finds it.

    A key matches the whole name, or what follows one of its dots; the first that matches wins. Raises ExpressionError
    for a key that can't be tried here.
    """

    def __init__(self, patterns: Mapping[str, V], default: V, budget: Budget) -> None:
        self._patterns = patterns
        self._values = list(patterns.values())
        self._default = default
        self._budget = budget
        self._names = _Names()
        self._positions: list[int] = []
        expressions = []
        for position, key in enumerate(patterns):
            if is_name(key):
                self._names.add(key, position)
            else:
                expressions.append(key)
                self._positions.append(position)
        if sum(map(len, expressions)) > MAX_EXPRESSION_CHARACTERS:
            raise ExpressionError(f"its patterns are longer than {MAX_EXPRESSION_CHARACTERS // 1024} KiB together")
        self._expressions = Automaton(expressions, after_dot=True) if expressions else None

    def of(self, module: str) -> V:
        """Return a module's value. Raises BudgetError."""
        position = self._names.first(module, self._budget)
        if self._expressions is not None:
            number = self._expressions.first(module, self._budget)
            if number is not None and (position is None or self._positions[number] < position):
                position = self._positions[number]
        # Then PEFT looks up the whole name, which may not match itself as an expression: "a+b".
        return self._patterns.get(module, self._default) if position is None else self._values[position]


class Targets:
    """Which modules a config means, as PEFT's `check_target_module_exists` decides; the config's values must be of
    PEFT's kinds.

    Raises ExpressionError for an expression that can't be tried here.
    """

    def __init__(self, config: Mapping[str, Any], budget: Budget) -> None:
        self._budget = budget
        self._targets = _Chosen(config.get("target_modules"), budget)
        self._excluded = _Chosen(config.get("exclude_modules"), budget)
        self._saved = [f"(.*\\.)?{name}(\\..*)?" for name in config.get("modules_to_save") or []]
        self._saved_found = Automaton(self._saved) if self._saved else None
        layers = config.get("layers_to_transform")
        self._layers = None if layers is None or layers == [] else {layers} if isinstance(layers, int) else set(layers)
        lists = config.get("layers_pattern")
        names = [name for name in ([lists] if isinstance(lists, str) else lists or []) if name]
        if len(names) > MAX_LISTS:
            raise ExpressionError(f"layers_pattern names more than {MAX_LISTS} lists of layers")
        self._lists = [re.compile(rf"(?:^|.*?\.){name}\.([0-9]+)\.") for name in names]

    def means(self, module: str) -> bool:
        """Whether a module is adapted. Raises BudgetError."""
        if self._excluded.has(module):
            return False
        if self._saved_found is not None and self._saved_found.first(module, self._budget) is not None:
            return False
        if not self._targets.has(module):
            return False
        if self._layers is None or self._targets.names_all_of(module):
            return True
        self._budget.spend(len(self._lists))
        found = next((match for pattern in self._lists or [_ANY_LAYER] if (match := pattern.match(module))), None)
        return found is not None and int(found[1]) in self._layers


class _Chosen:
    """Modules given by a list of names, each for a whole name or what follows one of its dots, or by one expression."""

    def __init__(self, said: Any, budget: Budget) -> None:
        self._budget = budget
        self._names = set() if isinstance(said, str) or said is None else set(said)
        self._expression = Automaton([said]) if isinstance(said, str) and said else None

    def has(self, module: str) -> bool:
        if self._expression is not None:
            return self._expression.first(module, self._budget) is not None
        return any(end in self._names for end in suffixes(module))

    def names_all_of(self, module: str) -> bool:
        """Whether a name is a module's whole name: then PEFT doesn't check the layer, nor with an expression."""
        return self._expression is not None or module in self._names
