"""What is scored: a base, bare or with an adapter, as a language model or, by an adapter's labels, as a classifier."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from transformers import set_seed

from sdk.lora.stored_quantization import require_precision
from sdk.schemas.events import Progress
from workers.pipelines.data.classify import logits_of as label_logits_of
from workers.pipelines.data.examples import Example
from workers.pipelines.data.label_rows import pad_token_id
from workers.pipelines.data.tokenizer import load_tokenizer, longest_row, serve_by, tokenizer_folder
from workers.pipelines.model.blueprint import read_blueprint, read_config, stored_quantization_named
from workers.pipelines.model.causality import logits_of, require_causal
from workers.pipelines.model.classifier import Classes
from workers.pipelines.model.device import Device, choose_device, memory_errors_named
from workers.pipelines.model.loading import LoadedBase, load_base
from workers.pipelines.model.shared_base import SharedBase
from workers.pipelines.orders import EvaluationItem, EvaluationOrder, Host
from workers.pipelines.scoring.forgetting import read_bare
from workers.pipelines.scoring.row_scores import Written

T = TypeVar("T")


class Scored(NamedTuple):
    """The result for a target, besides the scores of single rows."""

    loaded: LoadedBase
    metrics: dict[str, float]
    #: The examples that are kept as samples, each with its completion or predicted label.
    samples: list[tuple[Example, Written]]
    #: Scorer → its first error.
    errors: dict[str, str]


class Target:
    """One item of an order, with its tokenizer, and what scores it needs."""

    def __init__(self, item: EvaluationItem, order: EvaluationOrder, host: Host, bases: SharedBase) -> None:
        """Raises PipelineError for a base that can't be used, or is stored in another precision than requested."""
        self.item, self.spec, self.report, self.bases = item, order.spec, host.report, bases
        self.wordnet = order.wordnet
        #: None for a language model.
        self.classes: Classes | None = None
        if item.adapter is not None and item.labels is not None:
            self.tokenizer = self._load_tokenizer(_tokenizer_of_classifier)
            self.classes = Classes(tuple(item.labels), pad_token_id(read_config(item.base), self.tokenizer))
        with stored_quantization_named():
            blueprint = (
                read_blueprint(item.base, self.classes) if self.classes else bases.of_folder(item.base, read_blueprint)
            )
            require_precision(blueprint.packing, order.spec.precision)
        if self.classes is None:
            self.tokenizer = self._load_tokenizer(load_tokenizer)
            if (rendered_as := item.adapter or item.rendered_as) is not None:
                serve_by(self.tokenizer, rendered_as)
        #: Longest row in tokens, limited by the base's positions.
        self.max_length = longest_row(item.base, order.spec.max_length)

    def _load_tokenizer(self, load: Callable[..., Any]) -> Any:
        """Return the adapter's own tokenizer, or a copy of the base's."""
        item = self.item
        if tokenizer_folder(item.base, item.adapter) is item.base:
            return self.bases.tokenizer_of(item.base, load)
        return load(item.base, item.adapter)

    @cached_property
    def device(self) -> Device:
        """Where it is scored; a card isn't touched before this is first read."""
        return choose_device()

    @property
    def batches(self) -> tuple[int, int, Any]:
        """The token that pads batches, the most rows of one, and where it is computed."""
        return self.tokenizer.pad_token_id, self.spec.batch_size, self.device.torch_device

    @contextmanager
    def in_memory(self) -> Iterator[tuple[LoadedBase, Any, Any]]:
        """Yield the base, the model that is scored, and `BareTexts`: None for a classifier, whose bare base has no labels.

        Raises PipelineError.
        """
        key, bare = (self.item.base, self.item.quantization, self.classes), None
        with memory_errors_named("lower batch_size or max_length, or evaluate over the quantised base."):
            set_seed(self.spec.seed)
            if self.classes is None:
                # Held for all adapters over the base, which may have tokenizers of their own.
                own = self.bases.tokenizer_of(self.item.base, load_tokenizer)
                read = lambda model: read_bare(model, own, self.item.base)  # noqa: E731
                bare = self.bases.bare(key=key, load=self._load, read=read)
            logits = logits_of if self.classes is None else label_logits_of
            with self.bases.wearing(self.item.adapter, key=key, load=self._load, logits=logits) as (loaded, model):
                yield loaded, model, bare

    def _load(self) -> LoadedBase:
        self.report(Progress(phase="load", message=f"loading the base on {self.device.name}"))
        item = self.item
        loaded = load_base(item.base, self.device, quantization=item.quantization, classes=self.classes, kept=item.kept)
        if self.classes is None:
            self.report(Progress(phase="load", message=f"the base is held as {loaded.said}"))
            require_causal(loaded.model)
        return loaded

    def collect(self, batches: Iterable[list[T]], total: int) -> tuple[list[T], float]:
        """Return what was computed for each row, and in how many seconds; report progress after each batch."""
        rows, started = list[T](), time.perf_counter()
        for batch in batches:
            rows += batch
            left_s = (time.perf_counter() - started) / len(rows) * (total - len(rows))
            self.report(Progress(phase="evaluate", step=len(rows), total=total, unit="rows", eta_s=left_s))
        return rows, time.perf_counter() - started


def _tokenizer_of_classifier(base: Path, adapter: Path | None = None) -> Any:
    """Return the tokenizer of a base or an adapter; it needs no end-of-text token for a classification."""
    return load_tokenizer(base, adapter, ends=False)
