"""Policies: what must hold before an alias moves."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdk.api import promotion
from sdk.api.promotion import PolicyRoutes
from sdk.errors import Conflict, InvalidInput, NotFound
from sdk.given_values import build
from sdk.objects import Registry
from sdk.schemas.policies import PolicyDocument, PolicySetting, PolicyView
from sdk.submitting.given_policy import GivenPolicy, read_policies, read_policy


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
        return self._set(scope, read_policy(policy), expect)

    def set_all(self, scope: str, file: str | Path, *, expect: int | None = None) -> builtins.list[PolicyView]:
        """Set the policies of a YAML file, which `---` separates, one after the other. Raises as `set`; then the message names
        those that were set before.
        """
        views: builtins.list[PolicyView] = []
        for given in read_policies(file):
            try:
                views.append(self._set(scope, given, expect))
            except (InvalidInput, NotFound, Conflict) as error:
                if not views:
                    raise
                done = ", ".join(view.alias for view in views)
                raise type(error)(f"{error.message} (set before it: {done})", param=error.param) from None
        return views

    def _set(self, scope: str, given: GivenPolicy, expect: int | None) -> PolicyView:
        setting = build(PolicySetting, scope=scope, policy=given.document, expect=expect)
        with given.placed():
            return promotion.set_policy(self._registry.transport, setting)
