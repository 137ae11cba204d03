"""`adapterctl promote` and `rollback`, and the options of whatever moves an alias."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sdk.cli.commands.promotion.decisions import page_format_option, print_decision
from sdk.cli.commands.signing import ask_password
from sdk.cli.commands.watch import watch_all
from sdk.cli.completing.kinds import ADAPTER, ALIAS, FILE, NUMBER, REF
from sdk.cli.support.output import format_option, print_done, say
from sdk.cli.support.session import open_client
from sdk.errors import Conflict, InvalidInput
from sdk.schemas.aliases import AliasView
from sdk.schemas.promotion_words import moved, would_move

if TYPE_CHECKING:
    from sdk.client import Client
    from sdk.schemas.decisions import Decision
    from sdk.schemas.statements import SignedStatementView

F = TypeVar("F", bound=Callable[..., Any])

#: Scores may be missing once more when others have come: of a version that became the best meanwhile.
_MOST_ROUNDS = 3


def moving_options(command: F) -> F:
    """Add `--expect`, `--reason` and `--override`, which whatever moves an alias has."""
    for option in (
        click.option("--override", is_flag=True, help="Do it although rules don't pass; for admins, with --reason."),
        click.option("--reason", default="", help="The reason; kept in the history."),
        click.option(
            "--expect", type=NUMBER, metavar="vN", help="Only if the alias names this version now; 0 for none."
        ),
    ):
        command = option(command)
    return command


def print_moved(alias: AliasView, style: str) -> None:
    """Print what an alias names now, and the decision by which it moved."""
    by = [] if alias.decision is None else [f"by decision {alias.decision}: adapterctl decisions show {alias.decision}"]
    print_done(style, alias.model_dump(mode="json"), alias.ref, moved(alias), *by)


@click.command(name="promote")
@click.argument("ref", type=REF)
@click.argument("alias", type=ALIAS)
@click.option("--check", is_flag=True, help="Only say whether the alias would move, and why not.")
@click.option("--wait", is_flag=True, help="Have scored what is missing first, and wait for it.")
@moving_options
@click.option(
    "--sign", type=FILE, metavar="KEY", help="Then state that ALIAS names it, signed with this private key, a PEM file."
)
@click.option("--renew", is_flag=True, help="Only sign; ALIAS is not moved, and must name that version.")
@page_format_option
def promote_command(
    ref: str, alias: str, check: bool, wait: bool, sign: str | None, renew: bool, style: str, **move: Any
) -> None:
    """Point ALIAS at the version that REF names now, if its policies hold; print the exact ref.

    With --check, each rule is shown with what was found; the exit code is 0 if the alias would move, and 4 if not. With --wait,
    scores that are missing are computed by ordinary jobs first; Ctrl-C detaches, and the same command comes back to them.

    With --sign, those who pull with --require-signed-alias get it. They refuse a statement that is too old, so repeat it with
    --renew, which also signs what was moved before. The key's password is asked for, or taken from ADAPTERCTL_SIGNING_PASSWORD.

    \b
    Examples:
      adapterctl promote code-review@v3 production --expect v2 --reason 'beats v2'
      adapterctl promote code-review@v3 production --check
      adapterctl promote code-review@v3 production --wait
      adapterctl promote code-review@v2 production --override --reason 'v3 broke'
      adapterctl promote code-review@v3 production --sign KEY.pem
      adapterctl promote code-review@v3 production --sign KEY.pem --renew
    """
    _check_together(check=check, wait=wait, signs=sign is not None, renew=renew, style=style, **move)
    password = ask_password(sign) if sign is not None or renew else None
    with open_client() as client:
        if renew:
            _print_renewed(client.statements.sign(ref, alias, sign, password=password), style)
            return
        decision = _waited(client, ref, alias, move["expect"]) if wait else None
        if not check:
            print_moved(client.promote(ref, alias, sign=sign, sign_password=password, **move), style)
            return
        if decision is None:
            decision = client.decisions.check(ref, alias, expect=move["expect"])
    print_decision(decision, style)
    if not would_move(decision):
        sys.exit(Conflict.exit_code)


def _check_together(
    *, check: bool, wait: bool, signs: bool, renew: bool, style: str, expect: str | None, reason: str, override: bool
) -> None:
    """Raise InvalidInput for options that don't go together."""
    if override and (check or wait):
        raise InvalidInput("an override waits for no rules; leave out --check and --wait", param="override")
    if style == "markdown" and not check:
        raise InvalidInput("a page is about a decision; add --check", param="format")
    if check and signs:
        raise InvalidInput("--check moves nothing that could be signed; leave out --sign", param="sign")
    if renew and (check or wait or override or expect is not None or reason):
        raise InvalidInput("--renew moves nothing; give it with --sign alone", param="renew")


def _print_renewed(signed: SignedStatementView, style: str) -> None:
    said = signed.statement
    ref = f"{said.adapter}@sha256:{said.digest}"
    shown = {**said.model_dump(), "key_id": signed.key_id}
    print_done(style, shown, ref, f"{said.adapter}@{said.alias} is signed as {ref}, since move {said.move}")


def _waited(client: Client, ref: str, alias: str, expect: str | None) -> Decision:
    """Have what a decision misses scored, and return the one that can be made then. Raises JobFailed."""
    decision = client.decisions.check(ref, alias, expect=expect)
    for _ in range(_MOST_ROUNDS):
        if not decision.missing:
            break
        jobs = client.decisions.submit_missing(decision)
        for job in jobs:
            say(f"job {job.id} scores {job.view.subject}")
        watch_all(jobs, again=f"adapterctl promote {ref} {alias} --wait")
        for job in jobs:
            if job.error is not None:
                raise job.error
        decision = client.decisions.check(ref, alias, expect=expect)
    return decision


@click.command(name="rollback")
@click.argument("name", type=ADAPTER)
@click.argument("alias", type=ALIAS)
@moving_options
@format_option
def rollback_command(name: str, alias: str, expect: str | None, reason: str, override: bool, style: str) -> None:
    """Point ALIAS of the adapter NAME back at what it named before its last move; print the exact ref.

    What it named by a decision that passed needs no new one, unless a policy says 'rollback: checked'. Run it again to go back
    another move.

    \b
    Example:
      adapterctl rollback code-review production --reason 'v3 repeats itself'
    """
    with open_client() as client:
        print_moved(client.rollback(name, alias, expect=expect, reason=reason, override=override), style)
