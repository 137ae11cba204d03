"""The client's side of removal: retention rules, and the collection of garbage."""

from __future__ import annotations

from sdk.api.files import FileClient
from sdk.schemas.removal import GcReport, GcRequest, RetentionRule, RetentionView
from sdk.validation import build, check_name

#: A collection looks at everything that is stored.
_TIMEOUT_S = 4 * 3600.0


class RemovalClient(FileClient):
    """The part of a client that takes away."""

    def retention(self, adapter: str) -> RetentionView:
        """Which versions of an adapter `gc` keeps. Raises InvalidName, NotFound."""
        return self.call("GET", "/retention", RetentionView, params={"adapter": check_name(adapter)})

    def set_retention(
        self, adapter: str, *, keep_last: int | None = None, keep_days: int | None = None
    ) -> RetentionView:
        """Let `gc` keep the newest `keep_last` ready versions, those of the last `keep_days` days, and what aliases name.

        Raises InvalidName, InvalidInput, NotFound, NotAllowed.
        """
        rule = build(RetentionRule, keep_last=keep_last, keep_days=keep_days)
        return self.call("PUT", "/retention", RetentionView, body=rule, params={"adapter": check_name(adapter)})

    def clear_retention(self, adapter: str) -> None:
        """Keep all versions of an adapter again. Raises InvalidName, NotFound, NotAllowed."""
        self.call("DELETE", "/retention", type(None), params={"adapter": check_name(adapter)})

    def gc(self, *, dry_run: bool, grace_hours: int = 24, keep_merged_days: int | None = None) -> GcReport:
        """Apply the retention rules, and remove the files that nothing names any more; a dry run only says which.

        What was given up less than `grace_hours` ago is kept, and so are merged models, unless `keep_merged_days` says
        for how long. Raises NotAllowed, Unavailable.
        """
        body = build(GcRequest, dry_run=dry_run, grace_hours=grace_hours, keep_merged_days=keep_merged_days)
        return self.call("POST", "/gc", GcReport, body=body, timeout_s=_TIMEOUT_S)
