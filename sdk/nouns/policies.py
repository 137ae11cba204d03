"""Policies: what must hold before an alias moves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdk.api import promotion
from sdk.api.promotion import PolicyRoutes
from sdk.objects import Registry
from sdk.schemas.promotion import PolicyDocument, PolicySetting, PolicyView
from sdk.submitting.given_policy import read_policy
from sdk.validation import build


class PoliciesAPI(PolicyRoutes):
    """Policies. Called, it lists those that stand for a scope."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry.transport)
        self._registry = registry

    def set(
        self, scope: str, policy: PolicyDocument | Mapping[str, Any] | str | Path, *, expect: int | None = None
    ) -> PolicyView:
        """Set the policy of an adapter, a namespace (`team/*`) or all (`*`) for the alias that it names.

        `policy` is a YAML file, or what one holds. A key in `signed_by` may be the path of its PEM file, from the folder of
        the YAML file. With `expect` the scope's policy must have this version now (0: none). Raises InvalidInput, which
        says in which line; NotFound for a file or a dataset; NotAllowed unless you are an admin of the scope; Conflict.
        """
        setting = build(PolicySetting, scope=scope, policy=read_policy(policy), expect=expect)
        return promotion.set_policy(self._registry.transport, setting)
