"""A causal model in two parts: its decoder, and the head that turns hidden states into logits, only for supervised
tokens and in chunks.

The model's own code computes both. For a chunk, the decoder is replaced by one that returns the chunk's hidden states,
so whatever a family does to them or to its logits (a scale, a soft cap, a trained head) is done here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from workers.pipelines.data.batches import passed, supervised_logits
from workers.pipelines.data.examples import IGNORED
from workers.pipelines.data.objective import Batch, TokenLosses
from workers.pipelines.model.device import is_out_of_memory

#: The losses of both ways may differ by this many roundings of the largest logit.
_ROUNDINGS = 4
_HIDDEN = "last_hidden_state"


class OnePieceError(Exception):
    """The model's decoder and head can't be separated."""


class _Decoded(NamedTuple):
    """A decoder's output for a batch."""

    #: The class of the output, and its other fields.
    kind: Any
    rest: dict[str, Any]
    #: (batch, seq, hidden)
    hidden: Any


@dataclass(frozen=True)
class Head:
    """The part of a model that turns a decoder's hidden states into logits."""

    #: The module of the model that returns hidden states, (batch, seq, hidden).
    decoder: Any
    #: Whether anything after that module is trained.
    trained: bool = True

    def losses(self, chunk_tokens: int) -> TokenLosses:
        """Return a function for the losses of supervised tokens, with the logits of `chunk_tokens` of them in memory at
        a time.
        """
        return partial(self._losses, chunk_tokens=chunk_tokens)

    def _losses(self, model: Any, batch: Batch, *, chunk_tokens: int) -> tuple[Any, Any]:
        """Return the cross-entropy of each supervised token in nats, (supervised,) in float32 with its graph, and the
        tokens' places, (batch, seq - 1).

        If no part of the head is trained, the gradient of a chunk is computed at once, so that nothing is computed twice;
        otherwise its logits are computed again in the backward pass.
        """
        targets = batch["labels"][:, 1:]
        kept = targets != IGNORED
        said = self._decoded(model, batch)
        hidden, wanted = said.hidden[:, : kept.shape[1]][kept], targets[kept]
        if not len(wanted):
            return hidden.float().sum(dim=1), kept

        def losses_of(part: Any, tokens: Any) -> Any:
            logits = self.logits(model, said, part).float()
            return torch.nn.functional.cross_entropy(logits, tokens, reduction="none")

        if not torch.is_grad_enabled():
            found = torch.cat([losses_of(*part) for part in _parts(hidden, wanted, chunk_tokens)])
        elif self.trained:
            parts = _parts(hidden, wanted, chunk_tokens)
            found = torch.cat([checkpoint(losses_of, *part, use_reentrant=False) for part in parts])
        else:
            found = _Chunked.apply(hidden, wanted, losses_of, chunk_tokens)
        return found, kept

    def _decoded(self, model: Any, batch: Batch) -> _Decoded:
        """Return the decoder's output. The head gets one token, and its result is dropped. Raises OnePieceError."""
        own, found = self.decoder.forward, []

        def listen(*args: Any, **rest: Any) -> Any:
            said = own(*args, **rest)
            if not isinstance(said, Mapping) or _HIDDEN not in said:
                raise OnePieceError
            others = {name: value for name, value in said.items() if name != _HIDDEN}
            found.append(_Decoded(type(said), others, said[_HIDDEN]))
            # As a tensor of its own: for a view, torch multiplies in batches and copies the head's transposed weight.
            return type(said)(**others, **{_HIDDEN: said[_HIDDEN][0, 0].detach()[None, None]})

        with _standing_in(self.decoder, listen):
            model(**passed(batch))
        if len(found) != 1:
            raise OnePieceError
        return found[0]

    def logits(self, model: Any, said: _Decoded, part: Any) -> Any:
        """Return the model's logits, (tokens, vocabulary), for hidden states, (tokens, hidden)."""
        answer = said.kind(**said.rest, **{_HIDDEN: part[None]})
        places = torch.zeros((1, len(part)), dtype=torch.int64, device=part.device)
        with _standing_in(self.decoder, lambda *args, **rest: answer):
            return model(input_ids=places, use_cache=False).logits[0]

    def is_trained(self, model: Any, batch: Batch) -> bool:
        """Whether a gradient of the logits reaches anything but the hidden states."""
        with torch.no_grad():
            said = self._decoded(model, batch)
        with torch.enable_grad():
            return bool(self.logits(model, said, said.hidden[0, :1].detach()).requires_grad)


class _Chunked(torch.autograd.Function):  # type: ignore[misc]  # torch's types are not followed
    """Losses of hidden states, chunk by chunk. Only their gradient is kept for the backward pass, as large as the states."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, wanted: Any, losses_of: Callable[[Any, Any], Any], chunk_tokens: int) -> Any:
        """Return (tokens,) losses of (tokens, hidden) states."""
        losses, slopes = [], []
        for part, tokens in _parts(hidden, wanted, chunk_tokens):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                each = losses_of(leaf, tokens)
                # A token's loss depends only on its own state, so the gradient of the sum has each token's own gradient.
                slopes += torch.autograd.grad(each.sum(), leaf)
            losses.append(each.detach())
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        """Return the gradient of the states, each token's multiplied by its own factor."""
        (slopes,) = ctx.saved_tensors
        return (slopes * upstream[0][:, None]).to(slopes.dtype), None, None, None


def _parts(hidden: Any, wanted: Any, chunk_tokens: int) -> Iterator[tuple[Any, Any]]:
    return zip(hidden.split(chunk_tokens), wanted.split(chunk_tokens), strict=True)


@contextmanager
def _standing_in(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Temporarily replace what a module computes."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def head_of(model: Any, batch: Batch, rounding: float) -> Head:
    """Find a model's head; a batch must have the same losses with it as from the model's own logits.

    `rounding` is the relative rounding error of the model's type. Raises OnePieceError for a model without such a head.
    """
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits, targets, _ = supervised_logits(model, batch)
        expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        close = _ROUNDINGS * rounding * max(1.0, float(logits.abs().max()))
        for decoder in _decoders(model):
            head = Head(decoder)
            try:
                with torch.no_grad():
                    found, _ = head.losses(max(1, len(targets) // 2))(model, batch)
                trained = head.is_trained(model, batch)
            except Exception as error:
                # The model's code was not written for this, and may fail in any way.
                if is_out_of_memory(error):
                    raise
                continue
            if float((found - expected).abs().max()) <= close:
                return replace(head, trained=trained)
    finally:
        model.train(was)
    raise OnePieceError


def _decoders(model: Any) -> list[Any]:
    """Return the modules that may be the decoder: the model without its head, or a module within that."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = [base.base_model, base.get_decoder()] if hasattr(base, "get_decoder") else []
    return [each for number, each in enumerate(found) if each is not base and each not in found[:number]]
