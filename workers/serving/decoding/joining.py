"""Whether texts of unequal length can be decoded together over a base, found by doing it."""

from __future__ import annotations

from typing import Any

import torch

from workers.pipelines.model.causality import fixed_texts
from workers.serving.decoding.caches import are_whole, join, keep, size_bytes
from workers.serving.decoding.errors import BaseRefused
from workers.serving.decoding.passes import BASE, Tree

#: How many tokens of the text are read before the others, one by one, and how many the shorter text lacks at its beginning.
_FIRST, _SHORTER = 7, 3
#: How far logits may move, as a share of the largest; reading a position wrong moves them by far more in float32.
_ROUNDINGS, _LEAST_SHARE = 16, 1e-4


class Decoding:
    """How a base can be decoded."""

    def __init__(self, tree: Tree) -> None:
        """Try it. Raises BaseRefused for a base that isn't decoded step by step as it reads whole texts."""
        self._tree = tree
        text = fixed_texts(tree.model)[:1]
        try:
            cache, alone = self._stepped(text)
            right = _near(alone, self._truth(text), tree)
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
            right = False
        if not right:
            raise BaseRefused(
                "this base can't be decoded token by token with transformers' cache; score its adapters with: adapterctl eval"
            )
        #: How much memory the cache takes, for each token of a text; windows take less in long ones.
        self.bytes_per_token = max(1, size_bytes(cache) // text.shape[1])
        #: Whether texts share a cache, and a prompt may be read in several parts.
        self.joins = False
        if are_whole(cache):
            try:
                self.joins = all(_near(*pair, tree) for pair in self._together(text))
            except (RuntimeError, ValueError, TypeError, IndexError):
                self.joins = False

    def _truth(self, text: Any) -> Any:
        """Return the logits of the token after a text, (1, vocabulary), read whole without a cache."""
        return self._tree.read(text, None, names=[BASE], lengths=[0], width=0)[:, -1]

    def _stepped(self, text: Any) -> tuple[Any, Any]:
        cache = self._tree.new_cache()
        logits = self._tree.read(text[:, :_FIRST], cache, names=[BASE], lengths=[0], width=0)
        for place in range(_FIRST, text.shape[1]):
            logits = self._tree.read(text[:, place : place + 1], cache, names=[BASE], lengths=[place], width=place)
        return cache, logits[:, -1]

    def _together(self, text: Any) -> list[tuple[Any, Any]]:
        """Read two texts alone, the longer one in parts, then a token of both together, then one of the shorter alone again;
        return logits with what they should be.
        """
        read, end = self._tree.read, text.shape[1]
        long, short = self._tree.new_cache(), self._tree.new_cache()
        read(text[:, :_FIRST], long, names=[BASE], lengths=[0], width=0)
        read(text[:, _FIRST : end - 2], long, names=[BASE], lengths=[_FIRST], width=_FIRST)
        read(text[:, _SHORTER : end - 2], short, names=[BASE], lengths=[0], width=0)
        join(short, long)
        lengths = [end - 2 - _SHORTER, end - 2]
        both = read(text[:, -2:-1].repeat(2, 1), short, names=[BASE] * 2, lengths=lengths, width=end - 2)[:, -1]
        keep(short, [0], cut=_SHORTER)
        length = end - 1 - _SHORTER
        last = read(text[:, -1:], short, names=[BASE], lengths=[length], width=length)[:, -1]
        return [
            (both[:1], self._truth(text[:, _SHORTER:-1])),
            (both[1:], self._truth(text[:, :-1])),
            (last, self._truth(text[:, _SHORTER:])),
        ]


def _near(logits: Any, truth: Any, tree: Tree) -> bool:
    share = max(_LEAST_SHARE, _ROUNDINGS * torch.finfo(tree.model.dtype).eps)
    # False for NaN.
    return bool(float((logits - truth).abs().max()) <= share * float(truth.abs().max()))
