"""The families of rules that the gate asks."""

from __future__ import annotations

from collections.abc import Mapping

from registry.promotion.question import Family

#: By name, in the order in which a decision has their rules.
FAMILIES: Mapping[str, Family] = {}
#: Those that judge the removal of an alias, too. A question then has the version that is named now as `from_version_pk` and
#: `from_digest`, and none as its target.
OF_REMOVAL = frozenset({"approvals"})
