"""Numbers and metrics as sentences have them.

>>> decimals(0.013), decimals(2.6), decimals(130.0)
(3, 1, 0)
>>> shown_size(0.0512)
'0.052'
>>> metric_name("rouge_l"), metric_name("scorer.politeness")
('ROUGE-L', 'scorer.politeness')
>>> listed(["rank 1", "rank 2", "rank 4"])
'rank 1, rank 2 and rank 4'
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10

#: Metrics' names as people write them; others are written with spaces.
_NAMES = {"rouge_l": "ROUGE-L", "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2", "token_f1": "token F1", "json_valid": "valid JSON", "bleu": "BLEU", "chrf": "chrF", "nist": "NIST", "meteor": "METEOR with synonyms", "meteor_exact_stem": "METEOR", "macro_f1": "macro-F1"}  # fmt: skip


def metric_name(metric: str) -> str:
    """The name of a metric in a sentence."""
    return _NAMES.get(metric, metric.replace("_", " "))


def decimals(size: float) -> int:
    """With how many decimals a number as large as `size` has two digits."""
    return max(0, 1 - floor(log10(size))) if size > 0 else 3


def shown_size(size: float) -> str:
    """A size in two digits, rounded up, because smaller ones aren't promised."""
    digits = decimals(size)
    return f"{ceil(size * 10**digits * (1 - 1e-9)) / 10**digits:.{digits}f}"


def listed(words: Sequence[str]) -> str:
    """Words with commas, and "and" before the last."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)
