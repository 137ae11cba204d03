"""Pages on which something about an adapter is changed: what would be done, and a form that does it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import Response

from registry.errors import Conflict
from registry.http.paths import PAGES
from registry.http.routes import answered, service
from registry.promotion.turns import decided
from registry.search.adapters import FIRST_ALIAS
from registry.web.adapters.actions import (
    AdapterActions,
    ApprovalForm,
    CheckForm,
    MoveForm,
    StateForm,
    WithdrawalForm,
)
from registry.web.adapters.service import AdapterPages
from registry.web.pages import Visitor, form_of, moved, page, pages
from registry.web.rendering import link

router = pages()

_ACTIONS = f"{PAGES}actions/"
Adapter = Annotated[str, Query(max_length=200)]
Number = Annotated[int, Query(ge=1, le=10**9)]
Alias = Annotated[str, Query(max_length=64)]
Actions = Annotated[AdapterActions, service(AdapterActions)]
Pages = Annotated[AdapterPages, service(AdapterPages)]


@router.get(f"{_ACTIONS}promote")
async def ask_promotion(
    request: Request, actions: Actions, shown: Pages, who: Visitor, adapter: Adapter, number: Number
) -> Response:
    """Ask which alias is to name a version."""
    version = await answered(actions.state, adapter=adapter, number=number, who=who)
    aliases = await answered(shown.movable, adapter=adapter, who=who)
    return page(
        request,
        "actions/promote.html",
        version=version,
        aliases=aliases,
        alias=FIRST_ALIAS,
        may_check=aliases.may_check,
    )


@router.post(f"{_ACTIONS}promote/check")
async def check_promotion(request: Request, actions: Actions, who: Visitor) -> Response:
    """Show what the policies say to a move, and what would move."""
    form = form_of(request, CheckForm)
    return await _shown_promotion(request, actions, who, form.adapter, form.number, form.alias)


@router.post(f"{_ACTIONS}promote")
async def promote(request: Request, actions: Actions, who: Visitor) -> Response:
    """Point an alias at a version."""
    form = form_of(request, MoveForm)
    try:
        is_new = await decided(actions.promote, form=form, who=who)
    except Conflict as error:
        return await _shown_promotion(
            request, actions, who, form.adapter, form.number, form.alias, lost=error, form=form
        )
    return moved(link("adapters", form.adapter, moved=form.alias, again=None if is_new else "true"))


async def _shown_promotion(
    request: Request,
    actions: AdapterActions,
    who: Visitor,
    adapter: str,
    number: int,
    alias: str,
    **more: Any,
) -> Response:
    shown = await decided(actions.promotion, adapter=adapter, number=number, alias=alias, who=who)
    return _confirm(request, "actions/confirm_promotion.html", shown=shown, **more)


@router.get(f"{_ACTIONS}roll-back")
async def ask_rollback(request: Request, actions: Actions, who: Visitor, adapter: Adapter, alias: Alias) -> Response:
    """Show what an alias would name if its last move were undone."""
    shown = await answered(actions.going_back, adapter=adapter, alias=alias, who=who)
    return _confirm(request, "actions/confirm_rollback.html", shown=shown)


@router.post(f"{_ACTIONS}roll-back")
async def roll_back(request: Request, actions: Actions, who: Visitor) -> Response:
    """Undo the last move of an alias."""
    form = form_of(request, MoveForm)
    try:
        is_new = await decided(actions.roll_back, form=form, who=who)
    except Conflict as error:
        shown = await answered(actions.going_back, adapter=form.adapter, alias=form.alias, who=who)
        return _confirm(request, "actions/confirm_rollback.html", shown=shown, lost=error, form=form)
    return moved(link("adapters", form.adapter, moved=form.alias, again=None if is_new else "true"))


@router.get(f"{_ACTIONS}approve")
async def ask_approval(request: Request, actions: Actions, who: Visitor, adapter: Adapter, number: Number) -> Response:
    """Show who has approved a version, and ask whether the reader does."""
    return await _shown_approvals(request, actions, who, adapter, number)


@router.post(f"{_ACTIONS}approve")
async def approve(request: Request, actions: Actions, who: Visitor) -> Response:
    """Approve a version for an alias, or veto it."""
    form = form_of(request, ApprovalForm)
    try:
        await answered(actions.approve, form=form, who=who)
    except Conflict as error:
        return await _shown_approvals(request, actions, who, form.adapter, form.number, lost=error, form=form)
    return moved(link("actions/approve", adapter=form.adapter, number=form.number))


@router.post(f"{_ACTIONS}withdraw")
async def withdraw(request: Request, actions: Actions, who: Visitor) -> Response:
    """Withdraw an approval or a veto."""
    form = form_of(request, WithdrawalForm)
    await answered(actions.withdraw, form=form, who=who)
    return moved(link("actions/approve", adapter=form.adapter, number=form.number))


async def _shown_approvals(
    request: Request, actions: AdapterActions, who: Visitor, adapter: str, number: int, **more: Any
) -> Response:
    shown = await answered(actions.approvals, adapter=adapter, number=number, who=who)
    return _confirm(request, "actions/approve.html", shown=shown, **more)


@router.get(f"{_ACTIONS}archive")
async def ask_archiving(request: Request, actions: Actions, who: Visitor, adapter: Adapter, number: Number) -> Response:
    """Show what archiving a version means."""
    shown = await answered(actions.state, adapter=adapter, number=number, who=who)
    return _confirm(request, "actions/state.html", version=shown, verb="archive")


@router.get(f"{_ACTIONS}restore")
async def ask_restoring(request: Request, actions: Actions, who: Visitor, adapter: Adapter, number: Number) -> Response:
    """Show what restoring a version means."""
    shown = await answered(actions.state, adapter=adapter, number=number, who=who)
    return _confirm(request, "actions/state.html", version=shown, verb="restore")


@router.post(f"{_ACTIONS}archive")
async def archive(request: Request, actions: Actions, who: Visitor) -> Response:
    """Hide a version from lists and `latest`."""
    return await _state_moved(request, actions, who, "archive")


@router.post(f"{_ACTIONS}restore")
async def restore(request: Request, actions: Actions, who: Visitor) -> Response:
    """Bring an archived version back."""
    return await _state_moved(request, actions, who, "restore")


async def _state_moved(request: Request, actions: AdapterActions, who: Visitor, verb: str) -> Response:
    form = form_of(request, StateForm)
    try:
        await answered(actions.archive if verb == "archive" else actions.restore, form=form, who=who)
    except Conflict as error:
        shown = await answered(actions.state, adapter=form.adapter, number=form.number, who=who)
        return _confirm(request, "actions/state.html", version=shown, verb=verb, lost=error, form=form)
    return moved(link("adapters", form.adapter, archived="true" if verb == "archive" else None))


def _confirm(
    request: Request, template: str, *, lost: Conflict | None = None, form: Any = None, **shown: Any
) -> Response:
    """Return a page that asks; after what was `lost`, as it is now, with the reason that was given for it."""
    status = 200 if lost is None else lost.status
    message = None if lost is None else lost.message
    return page(request, template, status=status, message=message, reason="" if form is None else form.reason, **shown)
