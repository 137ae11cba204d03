"""The families of rules that the gate asks."""

from __future__ import annotations

from collections.abc import Mapping

from registry.promotion.question import RuleFamily
from registry.promotion.rules.approvals import approvals
from registry.promotion.rules.contamination import contamination
from registry.promotion.rules.forgetting import forgetting
from registry.promotion.rules.probe import probe
from registry.promotion.rules.scores import scores
from registry.promotion.rules.signature import signature

#: By name, in the order in which a decision has their rules.
FAMILIES: Mapping[str, RuleFamily] = {
    "scores": scores,
    "forgetting": forgetting,
    "contamination": contamination,
    "probe": probe,
    "signature": signature,
    "approvals": approvals,
}
#: Those that judge the removal of an alias, too. A question then has the version that is named now as `from_version_pk` and
#: `from_digest`, and none as its target.
OF_REMOVAL = frozenset({"approvals"})
