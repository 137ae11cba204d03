"""What people change on pages of adapters: each change is shown before, with what its reader has to see, and done by a form that
holds that.

If anything of it has changed meanwhile, nothing is done, and the page is shown again as it is then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from registry.catalog.aliases.service import Aliases
from registry.catalog.versions.finding import space_of
from registry.catalog.versions.lifecycle import VersionState
from registry.catalog.versions.service import Catalog
from registry.catalog.versions.version_states import VersionStates
from registry.errors import Conflict
from registry.principal import Principal
from registry.promotion.approvals import Approvals
from registry.promotion.gate import Gate
from registry.promotion.policies.finding import policies_digest
from registry.promotion.prospects import Prospect, Prospects
from registry.web.forms import FormFields
from sdk.schemas.aliases import AliasMove, AliasRollback
from sdk.schemas.approvals import ApprovalKind, ApprovalRequest, ApprovalView
from sdk.schemas.catalog import VersionMove, VersionView
from sdk.schemas.decisions import Decision, PromotionCheck

#: Of how many aliases an approval is asked for on one page.
_MOST_ALIASES = 20

Name = Annotated[str, Field(max_length=200)]
Alias = Annotated[str, Field(max_length=64)]
Number = Annotated[int, Field(ge=1, le=10**9)]
Digest = Annotated[str, Field(max_length=64)]
Reason = Annotated[str, Field(max_length=1000)]


class CheckForm(FormFields):
    """Which move is looked at."""

    adapter: Name
    number: Number
    alias: Alias


class MoveForm(FormFields):
    """A move as its reader saw it."""

    adapter: Name
    alias: Alias
    number: Number
    #: Of the version.
    digest: Digest
    #: What the alias named; 0: nothing.
    expect: Annotated[int, Field(ge=0, le=10**9)]
    #: The digest over the policies that stood.
    policies: Digest
    reason: Reason = ""
    override: bool = False


class ApprovalForm(FormFields):
    """An approval or a veto of a version as its reader saw it."""

    adapter: Name
    alias: Alias
    number: Number
    digest: Digest
    policies: Digest
    kind: ApprovalKind
    reason: Reason = ""


class WithdrawalForm(FormFields):
    """The withdrawal of an approval, and the version from whose page it comes."""

    adapter: Name
    number: Number
    id: Annotated[str, Field(max_length=32)]


class StateForm(FormFields):
    """A version that is archived or restored."""

    adapter: Name
    number: Number
    digest: Digest
    reason: Reason = ""


@dataclass(frozen=True)
class ShownMove:
    """A move before it is made."""

    prospect: Prospect
    #: What the policies say to it; None for whoever may not ask, or to go back, which needs no new decision.
    decision: Decision | None
    #: The digest over the policies of that decision.
    policies: str
    #: Whether the reader may move it although rules don't pass.
    may_override: bool


@dataclass(frozen=True)
class ShownApprovals:
    """A version that may be approved."""

    version: VersionView
    #: For each alias with a policy, what an approval would be about.
    prospects: Sequence[Prospect]
    #: Those of the same bytes, newest first.
    given: Sequence[ApprovalView]
    #: Ids of those that the reader may withdraw.
    own: frozenset[str]


class AdapterActions:
    """The service behind these pages: the gate, approvals and versions, for forms."""

    def __init__(
        self,
        gate: Gate,
        prospects: Prospects,
        approvals: Approvals,
        states: VersionStates,
        catalog: Catalog,
        aliases: Aliases,
    ) -> None:
        self._gate, self._prospects, self._approvals = gate, prospects, approvals
        self._states, self._catalog, self._aliases = states, catalog, aliases

    # Aliases.

    def promotion(self, *, adapter: str, number: int, alias: str, who: Principal, may_judge: bool = True) -> ShownMove:
        """Decide whether an alias would move, as `promote --check` does, and show it.

        Raises NotFound, Forbidden, Conflict, JudgingNeededError, Unavailable.
        """
        prospect = self._prospects.of(adapter=adapter, alias=alias, number=number, who=who)
        decision = None
        if who.may("promote", space_of(adapter)):
            check = PromotionCheck(adapter=adapter, alias=alias, number=number, expect=prospect.from_number)
            decision = self._gate.check(check=check, who=who, may_judge=may_judge)
        policies = prospect.policies_digest if decision is None else policies_digest(decision.policies)
        return ShownMove(prospect, decision, policies, who.may("admin", space_of(adapter)))

    def promote(self, *, form: MoveForm, who: Principal, may_judge: bool = True) -> bool:
        """Point an alias at a version, if all is as its reader saw it, and say whether this call did; a form that is sent twice
        moves it once. Raises what `Gate.move` does.
        """
        self._require_same(form.adapter, form.number, form.digest, who)
        move = AliasMove(
            adapter=form.adapter,
            alias=form.alias,
            number=form.number,
            expect=form.expect,
            reason=form.reason,
            override=form.override,
        )
        try:
            self._gate.move(move=move, who=who, may_judge=may_judge, policies=form.policies)
        except Conflict:
            if self._has_moved(form, "set", who):
                return False
            raise
        return True

    def going_back(self, *, adapter: str, alias: str, who: Principal) -> ShownMove:
        """Show what an alias would name if its last move were undone. Raises NotFound, Forbidden, Conflict."""
        prospect = self._prospects.of(adapter=adapter, alias=alias, number=None, who=who)
        return ShownMove(prospect, None, prospect.policies_digest, who.may("admin", space_of(adapter)))

    def roll_back(self, *, form: MoveForm, who: Principal, may_judge: bool = True) -> bool:
        """Undo the last move of an alias, if all is as its reader saw it, and say whether this call did; a form that is sent
        twice undoes one. Raises what `Gate.rollback` does.
        """
        try:
            self._undo(form, who, may_judge)
        except Conflict:
            if self._has_moved(form, "rollback", who):
                return False
            raise
        return True

    def _undo(self, form: MoveForm, who: Principal, may_judge: bool) -> None:
        prospect = self._prospects.of(adapter=form.adapter, alias=form.alias, number=None, who=who)
        if (prospect.number, prospect.digest) != (form.number, form.digest):
            raise Conflict(
                f"{form.adapter}@{form.alias} would go back to v{prospect.number} now, not to v{form.number}; look at it with: "
                f"adapterctl alias history {form.adapter}",
                param="number",
            )
        rollback = AliasRollback(
            adapter=form.adapter, alias=form.alias, expect=form.expect, reason=form.reason, override=form.override
        )
        self._gate.rollback(rollback=rollback, who=who, may_judge=may_judge, policies=form.policies)

    def _has_moved(self, form: MoveForm, kind: str, who: Principal) -> bool:
        """Whether the last move of an alias is the one that a form asks for, by who sends it."""
        last = self._aliases.history(adapter=form.adapter, alias=form.alias, who=who, limit=1).items
        asked = (kind, form.expect, form.number, who.name)
        return any((one.kind, one.from_number or 0, one.to_number, one.moved_by) == asked for one in last)

    # Approvals.

    def approvals(self, *, adapter: str, number: int, who: Principal) -> ShownApprovals:
        """Show what an approval of a version would be about, and those that there are. Raises NotFound, Forbidden."""
        who.require("promote", space_of(adapter), missing=f"there is no adapter {adapter!r}; see: adapterctl list")
        version = self._version(adapter, number, who)
        aliases = self._approvals.judged(adapter=adapter, who=who)[:_MOST_ALIASES]
        prospects = [self._prospects.of(adapter=adapter, alias=alias, number=number, who=who) for alias in aliases]
        newest = self._approvals.list(adapter=adapter, alias=None, who=who).items
        given = [one for one in newest if one.digest == version.digest]
        is_admin = who.may("admin", space_of(adapter))
        own = frozenset(
            one.id for one in given if one.withdrawn_at is None and (is_admin or one.created_by == who.name)
        )
        return ShownApprovals(version, prospects, given, own)

    def approve(self, *, form: ApprovalForm, who: Principal) -> ApprovalView:
        """Give an approval or a veto, if all is as its reader saw it. Raises what `Approvals.give` does."""
        self._require_same(form.adapter, form.number, form.digest, who)
        request = ApprovalRequest(
            adapter=form.adapter, alias=form.alias, number=form.number, kind=form.kind, reason=form.reason
        )
        return self._approvals.give(request=request, who=who, policies=form.policies)

    def withdraw(self, *, form: WithdrawalForm, who: Principal) -> ApprovalView:
        """Withdraw an approval. Raises what `Approvals.withdraw` does."""
        return self._approvals.withdraw(ident=form.id, who=who)

    # Versions.

    def state(self, *, adapter: str, number: int, who: Principal) -> VersionView:
        """Show a version that may be archived or restored. Raises NotFound, Forbidden."""
        missing = f"there is no adapter {adapter!r}; see what there is with: adapterctl list"
        who.require("write", space_of(adapter), missing=missing, param="adapter")
        return self._version(adapter, number, who)

    def archive(self, *, form: StateForm, who: Principal) -> VersionView:
        """Hide a version from lists and `latest`. Raises what `VersionStates.move` does."""
        return self._moved(form, VersionState.ARCHIVED, who)

    def restore(self, *, form: StateForm, who: Principal) -> VersionView:
        """Bring a version back. Raises what `VersionStates.move` does."""
        return self._moved(form, VersionState.READY, who)

    def _moved(self, form: StateForm, target: VersionState, who: Principal) -> VersionView:
        self._require_same(form.adapter, form.number, form.digest, who)
        move = VersionMove(ref=f"{form.adapter}@v{form.number}", reason=form.reason)
        return self._states.move(move, target, who=who)

    def _version(self, adapter: str, number: int, who: Principal) -> VersionView:
        return self._catalog.resolve(f"{adapter}@v{number}", who=who)

    def _require_same(self, adapter: str, number: int, digest: str, who: Principal) -> None:
        """Raise Conflict unless a number still means the bytes that a reader saw."""
        found = self._version(adapter, number, who)
        if found.digest != digest:
            raise Conflict(f"{found.ref} is not the version that was shown; load its page again", param="digest")
