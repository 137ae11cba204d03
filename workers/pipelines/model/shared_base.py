"""One base in memory, on which one adapter after the other is put, each finding it as it was loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from workers.pipelines.model.adapters import load_adapter
from workers.pipelines.model.causality import fixed_texts, logits_of
from workers.pipelines.model.kept_adapter import KeptAdapter
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
        #: The last adapter over it that is no more than its matrices.
        self._kept: KeptAdapter | None = None
        #: Whether the base was found as it was loaded, and nothing was put on since.
        self._untouched = False
        #: The folder that was read last, and what each reader found there.
        self._folder: Path | None = None
        self._found: dict[object, Any] = {}
        #: How often a base was loaded.
        self.loads = 0

    def of_folder(self, base: Path, read: Callable[[Path], _Read]) -> _Read:
        """Return what `read` finds in a base's folder, read once as long as no other is asked for. Raises what `read` does."""
        if self._folder != base:
            self._folder, self._found = base, {}
        if read not in self._found:
            self._found[read] = read(base)
        return cast("_Read", self._found[read])

    def tokenizer(self, base: Path, load: Callable[[Path], Any]) -> Any:
        """Return the tokenizer that `load` gives of a base's folder, as `of_folder` does, to each caller a copy, whose chat
        template it may set.
        """
        return copy.copy(self.of_folder(base, load))

    @contextmanager
    def wearing(
        self,
        adapter: Path | None,
        *,
        key: object,
        load: Callable[[], LoadedBase],
        logits: Callable[[Any, Any], Any] = logits_of,
    ) -> Iterator[tuple[LoadedBase, Any]]:
        """Yield the base that `load` gives, or that is held under `key`, and a model of it with the adapter of a folder, or bare.

        `logits` are what the model says of tokens, (batch, seq). Raises PipelineError for an adapter that does not fit, and what
        `load` raises.
        """
        bare = self._base(key, load, logits)
        model = bare.loaded.model
        self._untouched = False
        if adapter is None:
            yield bare.loaded, model
            return
        try:
            kept = self._kept
            worn = None if kept is None else kept.put_on(adapter)
            if worn is None:
                worn = load_adapter(model, adapter)
                kept = KeptAdapter.of(worn, model, adapter)
            yield bare.loaded, worn
        except BaseException:
            # An adapter that is half on can't be taken off.
            self._bare = self._kept = None
            raise
        if kept is None:
            _take_off(worn, model)
        else:
            kept.take_off()
            self._kept = kept

    def bare(self, *, key: object, load: Callable[[], LoadedBase], read: Callable[[Any], _Read]) -> _Read:
        """Return what `read` finds of the bare language model, found once as long as this base is held. Raises PipelineError."""
        bare = self._base(key, load, logits_of)
        if bare.read is None:
            bare.read = read(bare.loaded.model)
        return cast("_Read", bare.read)

    def _base(self, key: object, load: Callable[[], LoadedBase], logits: Callable[[Any, Any], Any]) -> _Bare:
        bare = self._bare
        if bare is None or key != self._key or not (self._untouched or bare.is_as_loaded()):
            # The one before goes first: two would not fit.
            self._bare = self._kept = bare = None
            loaded = load()
            self.loads += 1
            self._key, self._bare = key, (bare := _Bare(loaded, logits))
        self._untouched = True
        return bare


class _Bare:
    """A base as it was loaded."""

    def __init__(self, loaded: LoadedBase, logits: Callable[[Any, Any], Any]) -> None:
        self.loaded = loaded
        self._logits_of = logits
        self._texts = fixed_texts(loaded.model)[:1]
        self._logits = logits(loaded.model, self._texts)
        self._held = _held(loaded.model)
        #: What was found of it bare.
        self.read: object = None

    def is_as_loaded(self) -> bool:
        model = self.loaded.model
        return (
            hasattr(model, "peft_config") is False
            and _held(model) == self._held
            and torch.equal(self._logits_of(model, self._texts), self._logits)
        )


def _held(model: Any) -> list[_Held]:
    return [
        (name, tensor.dtype, tuple(tensor.shape), tensor.data_ptr(), tensor._version)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    ]


def _take_off(worn: Any, model: Any) -> None:
    """Take an adapter off its base, as far as PEFT can; whether the base is as before is seen where it is used next."""
    from peft.utils import ModulesToSaveWrapper

    # PEFT leaves what an adapter has whole, as a classification's head, in the place of the base's own.
    own = {name: each.original_module for name, each in model.named_modules() if isinstance(each, ModulesToSaveWrapper)}
    # What PEFT can't take off is loaded afresh.
    with suppress(AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        worn.unload()
        for name, module in own.items():
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module)
    if hasattr(model, "peft_config"):
        # PEFT adds the next adapter to those that it still finds named here.
        del model.peft_config
