"""The modules that `modules_to_save` names: those with a name of it anywhere in theirs, as PEFT's own copies have.

>>> saved = SavedModules(["score", "model.norm"])
>>> [saved.have(module) for module in ("score.dense", "base.model.norm", "model.layers.0.norm", "underscore")]
[True, True, False, False]
"""

from __future__ import annotations

from collections.abc import Iterable


class SavedModules:
    """Names of modules, found within others without trying each."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._sizes = sorted({name.count(".") + 1 for name in self._names})

    def have(self, module: str) -> bool:
        """Whether one of the names is a part of a module's name, or several parts in a row."""
        if not self._names:
            return False
        parts = module.split(".")
        return any(
            ".".join(parts[at : at + size]) in self._names
            for size in self._sizes
            for at in range(len(parts) - size + 1)
        )
