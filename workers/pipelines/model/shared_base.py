"""One base in memory for one adapter after the other; each finds it as it was loaded."""

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

#: What identifies a tensor of the base: name, type, shape, place in memory, and how often it was written to.
_Held = tuple[str, Any, tuple[int, ...], int, int]

_Read = TypeVar("_Read")


class SharedBase:
    """Bases that are loaded once for all adapters over them, one base at a time.

    Some adapters change the base itself: their initialisation (PiSSA, OLoRA), their biases or their vocabulary. So
    after removing each adapter, the bare base must have the same tensors and predict the same bit for bit; if it
    doesn't, it is loaded again.
    """

    def __init__(self) -> None:
        self._key: object = None
        self._bare: _Bare | None = None
        #: The last adapter over it that consists only of its matrices.
        self._kept: KeptAdapter | None = None
        #: Whether the base was found to be as loaded, and no adapter was added since.
        self._untouched = False
        #: The folder that was read last, and each reader's result.
        self._folder: Path | None = None
        self._found: dict[object, Any] = {}
        #: How often a base was loaded.
        self.loads = 0

    def of_folder(self, base: Path, read: Callable[[Path], _Read]) -> _Read:
        """Return the result of `read` for a base's folder, cached until another folder is requested. Raises what `read`
        raises.
        """
        if self._folder != base:
            self._folder, self._found = base, {}
        if read not in self._found:
            self._found[read] = read(base)
        return cast("_Read", self._found[read])

    def tokenizer(self, base: Path, load: Callable[[Path], Any]) -> Any:
        """Return the tokenizer that `load` returns for a base's folder, cached as in `of_folder`; each caller gets a
        copy, and may set its chat template.
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
        """Yield the base that `load` returns, or that is held under `key`, and a model of it with the adapter in a
        folder, or bare.

        `logits` computes the model's logits for tokens, (batch, seq). Raises PipelineError for an adapter that does not
        fit, and what `load` raises.
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
            # An adapter that is only half added can't be removed.
            self._bare = self._kept = None
            raise
        if kept is None:
            _take_off(worn, model)
        else:
            kept.take_off()
            self._kept = kept

    def bare(self, *, key: object, load: Callable[[], LoadedBase], read: Callable[[Any], _Read]) -> _Read:
        """Return the result of `read` for the bare language model, cached as long as this base is held. Raises
        PipelineError.
        """
        bare = self._base(key, load, logits_of)
        if bare.read is None:
            bare.read = read(bare.loaded.model)
        return cast("_Read", bare.read)

    def _base(self, key: object, load: Callable[[], LoadedBase], logits: Callable[[Any, Any], Any]) -> _Bare:
        bare = self._bare
        if bare is None or key != self._key or not (self._untouched or bare.is_as_loaded()):
            # The previous one is freed first: two would not fit.
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
        #: Results for the bare base.
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
    """Remove an adapter from its base, as far as PEFT can; whether the base is as before is checked at its next use."""
    from peft.utils import ModulesToSaveWrapper

    # PEFT leaves an adapter's whole modules, such as a classification's head, in place of the base's own.
    own = {name: each.original_module for name, each in model.named_modules() if isinstance(each, ModulesToSaveWrapper)}
    # If PEFT can't remove it, the base is loaded again.
    with suppress(AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        worn.unload()
        for name, module in own.items():
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module)
    if hasattr(model, "peft_config"):
        # PEFT would add the next adapter to those that are still named here.
        del model.peft_config
