"""One base in memory, on which one adapter after the other is put, each finding it as it was loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from workers.pipelines.model.adapters import load_adapter
from workers.pipelines.model.causality import fixed_texts, logits_of, require_causal
from workers.pipelines.model.loading import LoadedBase

#: What a tensor of the base is known by: name, type, shape, place in memory, and how often it was written to.
_Held = tuple[str, Any, tuple[int, ...], int, int]

_Read = TypeVar("_Read")


class SharedBase:
    """Bases that are loaded once for all adapters over them, one base at a time.

    Some adapters change the base itself: their initialisation (PiSSA, OLoRA), their biases or their vocabulary. So after
    each that was taken off, the bare base must hold the same tensors, and predict the same bit for bit; where it does
    not, it is loaded afresh.
    """

    def __init__(self) -> None:
        self._key: object = None
        self._bare: _Bare | None = None
        #: Whether the base was found as it was loaded, and nothing was put on since.
        self._untouched = False
        self._tokenizer: tuple[Path, Any] | None = None
        #: How often a base was loaded.
        self.loads = 0

    def tokenizer(self, base: Path, load: Callable[[Path], Any]) -> Any:
        """Return the tokenizer that `load` gives of a base's folder, loaded once as long as no other is asked for.

        Each caller has a copy, whose chat template it may set. Raises what `load` does.
        """
        if self._tokenizer is None or self._tokenizer[0] != base:
            self._tokenizer = base, load(base)
        return copy.copy(self._tokenizer[1])

    @contextmanager
    def wearing(
        self, adapter: Path | None, *, key: object, load: Callable[[], LoadedBase]
    ) -> Iterator[tuple[LoadedBase, Any]]:
        """Yield the base that `load` gives, or that is held under `key`, and a model of it with the adapter of a folder, or bare.

        Raises PipelineError for a base that sees what it should predict, and an adapter that does not fit.
        """
        bare = self._base(key, load)
        model = bare.loaded.model
        self._untouched = False
        if adapter is None:
            yield bare.loaded, model
            return
        try:
            worn = load_adapter(model, adapter)
            yield bare.loaded, worn
        except BaseException:
            # An adapter that is half on can't be taken off.
            self._bare = None
            raise
        _take_off(worn, model)

    def bare(self, *, key: object, load: Callable[[], LoadedBase], read: Callable[[Any], _Read]) -> _Read:
        """Return what `read` finds of the bare model, found once as long as this base is held. Raises PipelineError."""
        bare = self._base(key, load)
        if bare.read is None:
            bare.read = read(bare.loaded.model)
        return cast("_Read", bare.read)

    def _base(self, key: object, load: Callable[[], LoadedBase]) -> _Bare:
        bare = self._bare
        if bare is None or key != self._key or not (self._untouched or bare.is_as_loaded()):
            # The one before goes first: two would not fit.
            self._bare = bare = None
            loaded = load()
            self.loads += 1
            require_causal(loaded.model)
            self._key, self._bare = key, (bare := _Bare(loaded))
        self._untouched = True
        return bare


class _Bare:
    """A base as it was loaded."""

    def __init__(self, loaded: LoadedBase) -> None:
        self.loaded = loaded
        self._texts = fixed_texts(loaded.model)[:1]
        self._logits = logits_of(loaded.model, self._texts)
        self._held = _held(loaded.model)
        #: What was found of it bare.
        self.read: object = None

    def is_as_loaded(self) -> bool:
        model = self.loaded.model
        return (
            hasattr(model, "peft_config") is False
            and _held(model) == self._held
            and torch.equal(logits_of(model, self._texts), self._logits)
        )


def _held(model: Any) -> list[_Held]:
    return [
        (name, tensor.dtype, tuple(tensor.shape), tensor.data_ptr(), tensor._version)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    ]


def _take_off(worn: Any, model: Any) -> None:
    """Take an adapter off its base, as far as PEFT can; whether the base is as before is seen where it is used next."""
    # What PEFT can't take off is loaded afresh.
    with suppress(AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        worn.unload()
    if hasattr(model, "peft_config"):
        # PEFT adds the next adapter to those that it still finds named here.
        del model.peft_config
