"""One pass of a model over the next tokens of several texts, whatever its class calls its arguments."""

from __future__ import annotations

import inspect
import weakref
from typing import Any

import torch
from transformers import DynamicCache

#: PEFT's name for the base among adapters' names.
BASE = "__base__"


class Tree:
    """A model that decodes: the base's modules with some adapters' wrappers among them.

    Only one thread may call it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        takes = inspect.signature(model.forward).parameters
        self._positions, self._keeps = "position_ids" in takes, "logits_to_keep" in takes
        self._cache = next((name for name in ("cache", "past_key_values") if name in takes), None)
        self._names: list[str] = []
        self._hooked: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def has_cache(self) -> bool:
        """Whether the model carries what it read in transformers' cache."""
        return self._cache is not None

    def mix(self) -> None:
        """Let the adapters in the model's wrappers answer by row; to be called after each new wrapper.

        PEFT's own `adapter_names` puts a hook on every wrapper and takes it off again in each pass.
        """
        from peft.tuners.lora import LoraLayer

        for module in self.model.modules():
            if isinstance(module, LoraLayer) and module not in self._hooked:
                self._hooked.add(module)
                module.register_forward_pre_hook(self._name_adapters, with_kwargs=True)

    def _name_adapters(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Called by torch before a wrapper: PEFT takes the adapter of each row there."""
        if not module.lora_A and not module.lora_embedding_A:
            # Left of a version that is gone. PEFT would refuse names even so, where an input has other rows than the text.
            return args, kwargs
        return args, {**kwargs, "adapter_names": self._names}

    def new_cache(self) -> Any:
        """Return an empty cache as the model's own config wants it."""
        return DynamicCache(config=self.model.config)

    def read(self, tokens: Any, cache: Any, *, names: list[str], lengths: list[int], width: int, keep: int = 1) -> Any:
        """Return the logits of the last `keep` of the next tokens, (rows, keep, vocabulary), in float32; 0: of all.

        `tokens` are (rows, seq). `cache` has the `width` places that were read before, of which the first
        `width - lengths[row]` of each row are padding. `names` are PEFT's for the adapter of each row.
        """
        rows, count = tokens.shape
        before = torch.tensor(lengths)
        given: dict[str, Any] = {}
        if bool((before < width).any()):
            places = torch.arange(width + count)
            given["attention_mask"] = (places >= width - before[:, None]).long().to(tokens.device)
        else:
            given["attention_mask"] = torch.ones(rows, width + count, dtype=torch.int64, device=tokens.device)
        if self._positions:
            given["position_ids"] = (before[:, None] + torch.arange(count)).to(tokens.device)
        if self._keeps:
            given["logits_to_keep"] = keep
        if cache is not None and self._cache is not None:
            given[self._cache] = cache
        self._names = names
        with torch.inference_mode():
            logits = self.model(input_ids=tokens, use_cache=cache is not None, **given).logits
        return logits[:, -keep:].float()
