"""Which versions are kept, and the removal of what nothing refers to."""

from __future__ import annotations

from sdk.api.transport import Routes
from sdk.given_values import build
from sdk.names import check_name
from sdk.schemas.removal import GcReport, GcRequest, RetentionRule, RetentionView

#: A collection goes through everything that is stored.
_COLLECTING_S = 4 * 3600.0


class RetentionAPI(Routes):
    """Which versions garbage collection keeps, and the collection. Called, it returns the rule of an adapter."""

    def get(self, adapter: str) -> RetentionView:
        """Which versions of an adapter `gc` keeps. Raises InvalidName, NotFound."""
        return self._transport.call("GET", "/retention", RetentionView, params={"adapter": check_name(adapter)})

    __call__ = get

    def set(self, adapter: str, *, keep_last: int | None = None, keep_days: int | None = None) -> RetentionView:
        """Let `gc` keep the newest `keep_last` ready versions, those of the last `keep_days` days, and what aliases
        name.

        Raises InvalidName, InvalidInput, NotFound, NotAllowed.
        """
        rule, params = build(RetentionRule, keep_last=keep_last, keep_days=keep_days), {"adapter": check_name(adapter)}
        return self._transport.call("PUT", "/retention", RetentionView, body=rule, params=params)

    def clear(self, adapter: str) -> None:
        """Keep all versions of an adapter again. Raises InvalidName, NotFound, NotAllowed."""
        self._transport.call("DELETE", "/retention", type(None), params={"adapter": check_name(adapter)})

    def gc(self, *, dry_run: bool, grace_hours: int = 24, keep_merged_days: int | None = None) -> GcReport:
        """Apply the retention rules, and remove files that nothing refers to any more; a dry run only lists them.

        Files given up less than `grace_hours` ago are kept; merged models are kept for ever, or for
        `keep_merged_days`. Raises NotAllowed, Unavailable.
        """
        request = build(GcRequest, dry_run=dry_run, grace_hours=grace_hours, keep_merged_days=keep_merged_days)
        return self._transport.call("POST", "/gc", GcReport, body=request, timeout_s=_COLLECTING_S)
