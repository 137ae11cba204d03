"""What a rule may ask of a metric: in which direction it is better, what it can be, and whether rows have it.

>>> why_not("loss", MetricRule(at_least=0.3), None)
'less of loss is better, and this lets the worse ones through; give at_most'
>>> why_not("rouge_l", MetricRule(at_least=1.2), None)
'no rouge_l is at least 1.2: it is 0 to 1; give a bound between them'
>>> why_not("rouge_l", MetricRule(at_least=0.3), None) is None
True
"""

from __future__ import annotations

import difflib
import re
from math import inf

from sdk.schemas.evaluation import (
    CORPUS_METRICS,
    LARGEST_SCORES,
    MADE_OF_LOSS,
    UNDIVIDED_METRICS,
    WEIGHTED_METRICS,
    Better,
    better_is,
    is_of_texts,
    is_scorer,
)
from sdk.schemas.policies import MetricRule

#: A score of a user's own scorer, or one of its several.
_SCORER = re.compile(r"scorer\.[a-z][a-z0-9_]{0,39}(\.[a-z][a-z0-9_]{0,39})?")
#: Scores of which nobody has the least or the largest are not here.
_RANGES: dict[str, tuple[float, float]] = {
    **{name: (0.0, largest) for name, largest in LARGEST_SCORES.items()},
    **dict.fromkeys(("macro_f1", "auc", "preference_accuracy", "expected_calibration_error"), (0.0, 1.0)),
    **dict.fromkeys(("loss", "bits_per_byte", "content_loss", "rejected_loss", "nist"), (0.0, inf)),
    "perplexity": (1.0, inf),
    "cider_d": (0.0, 10.0),
}
#: Measured on general texts, and no rows' scores.
_FORGETTING = {"general_kl": "kl_at_most", "general_loss": "loss_rise_at_most"}
#: Metrics that rows with labels or with choices have, by the shape of such rows.
_OF_SHAPES = {
    **dict.fromkeys(("accuracy", "macro_f1", "expected_calibration_error"), "text-label"),
    **dict.fromkeys(("acc", "acc_norm", "acc_bytes"), "choices"),
    **dict.fromkeys(("preference_accuracy", "preference_margin", "rejected_loss"), "preference"),
    **dict.fromkeys(("auc", "desirable_log_ratio", "undesirable_log_ratio"), "unpaired-preference"),
}
#: How such rows are written.
_WRITTEN = {
    "text-label": "{text, label}",
    "choices": "{prompt, choices, answer}",
    "preference": "{prompt, chosen, rejected}",
    "unpaired-preference": "{prompt, completion, label}",
}
#: Shapes of rows for which nothing is generated.
_WITHOUT_TEXTS = ("text", "text-label", "choices")


def range_of(metric: str) -> tuple[float, float]:
    """Return the least and the largest that a metric can be; infinite where nothing is known."""
    return _RANGES.get(metric, (-inf, inf))


def of_rows(metric: str) -> bool:
    """Whether rows have the metric, so that it has an interval and is compared row by row."""
    if is_of_texts(metric):
        return metric not in UNDIVIDED_METRICS
    return metric in WEIGHTED_METRICS or metric in LARGEST_SCORES


def unknown(metric: str) -> str | None:
    """Say why there is no such metric in a rule, and what to write; None if there is."""
    if metric in _FORGETTING:
        return f"{metric} is measured on general texts, not on rows; write {_FORGETTING[metric]} under forgetting"
    if is_scorer(metric):
        if _SCORER.fullmatch(metric):
            return None
        return f"{metric[:80]!a} is not a score of a scorer; write scorer.NAME, or scorer.NAME.KEY for one of several"
    if better_is(metric) is not None:
        return None
    known = sorted(set(_RANGES) | {"preference_margin", "desirable_log_ratio", "undesirable_log_ratio"})
    near = difflib.get_close_matches(metric[:100], known, n=1)
    meant = f"did you mean {near[0]}?" if near else "known ones are loss, bits_per_byte, rouge_l, accuracy, acc …"
    return f"there is no metric {metric[:80]!a}; {meant} All are listed by: adapterctl eval --help"


def misfit(metric: str, shape: str | None) -> str | None:
    """Say why rows of a shape can't have a metric, and what to do; None if they may."""
    wanted = _OF_SHAPES.get(metric)
    if shape is None or shape == wanted:
        return None
    if wanted is not None:
        return f"{metric} is a score of rows {_WRITTEN[wanted]}, and these are others; choose another metric, or other rows"
    if is_of_texts(metric) and shape in _WITHOUT_TEXTS:
        return (
            f"{metric} is a score of answers, and of these rows none is generated; choose another metric, or other rows"
        )
    return None


def why_not(metric: str, rule: MetricRule, declared: Better | None) -> str | None:
    """Say why a rule can't be for a metric that there is, and what to write instead; None if it can.

    `declared` is in which direction the scorer, or the rule itself, says that the metric is better.
    """
    return _wrong_way(metric, rule, declared) or _without_rows(metric, rule) or _out_of_range(metric, rule)


def _wrong_way(metric: str, rule: MetricRule, declared: Better | None) -> str | None:
    known = better_is(metric)
    if known is not None and rule.better not in (None, known):
        return f"{known} of {metric} is better, whatever a policy says; leave better out"
    better = known or declared
    if better is None and rule.not_worse_than is not None:
        return (
            f"nobody says whether less or more of {metric} is better; write better: less, or better: more, or declare it "
            "where the scorer is installed"
        )
    if better == "less" and rule.at_least is not None:
        return f"less of {metric} is better, and this lets the worse ones through; give at_most"
    if better == "more" and rule.at_most is not None:
        return f"more of {metric} is better, and this lets the worse ones through; give at_least"
    return None


def _without_rows(metric: str, rule: MetricRule) -> str | None:
    floors = rule.at_least is not None or rule.at_most is not None
    instead = " or ask the same of loss" if metric in MADE_OF_LOSS else " or choose a score that rows have"
    if not of_rows(metric):
        if rule.not_worse_than is not None:
            instead = "the same of loss" if metric in MADE_OF_LOSS else "it of a score that rows have"
            return f"no row has a {metric} of its own, so nothing is compared by it; ask {instead}"
        if floors and not rule.point:
            return f"no row has a {metric} of its own, so it has no interval; add point: true,{instead}"
    if metric in CORPUS_METRICS and floors and not rule.point:
        return (
            f"{metric} is a score of all rows together, which has no interval; add point: true, or give not_worse_than"
        )
    return None


def _out_of_range(metric: str, rule: MetricRule) -> str | None:
    least, largest = range_of(metric)
    between = f"it is {least:g} to {largest:g}; give a bound between them"
    if largest == inf:
        between = f"it is at least {least:g}; give a larger bound"
    for name, bound, edge in (("at_least", rule.at_least, largest), ("at_most", rule.at_most, least)):
        if bound is None:
            continue
        beyond = bound > edge if name == "at_least" else bound < edge
        words = name.replace("_", " ")
        if beyond:
            return f"no {metric} is {words} {bound:g}: {between}"
        if bound == edge and not rule.point:
            return (
                f"no interval of a {metric} is {words} {bound:g}, which only a perfect version has; give a weaker bound, or add "
                "point: true"
            )
    return None


def asks_nothing(metric: str, rule: MetricRule) -> str | None:
    """Say that every version fulfils a rule; None if not."""
    least, largest = range_of(metric)
    if rule.at_least is not None and rule.at_least <= least:
        return f"every {metric} is at least {rule.at_least:g}"
    if rule.at_most is not None and rule.at_most >= largest:
        return f"every {metric} is at most {rule.at_most:g}"
    if rule.not_worse_than is not None and rule.not_worse_than >= largest - least:
        return f"no {metric} is worse than another by more than {rule.not_worse_than:g}"
    return None
