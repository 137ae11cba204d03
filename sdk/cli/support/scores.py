"""Which scores a table shows: those that rows of the kind have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def score_names(metrics: Iterable[Mapping[str, float]]) -> tuple[str, ...]:
    """Return the names of the columns.

    >>> score_names([{"loss": 0.1, "macro_f1": 0.9}]), score_names([{"loss": 1.2, "perplexity": 3.3}])
    (('loss', 'accuracy', 'macro_f1'), ('loss', 'perplexity', 'rouge_l'))
    """
    found = list(metrics)
    labels, texts = (any(name in one for one in found) for name in ("macro_f1", "perplexity"))
    last = (("accuracy", "macro_f1") if labels else ()) + (("perplexity", "rouge_l") if texts or not labels else ())
    return ("loss", *last)
