"""`adapterctl alias`, `promote`, `rollback`."""

from __future__ import annotations

import click

from sdk.cli.commands.signing import ask_password
from sdk.cli.support.options import confirm, yes_option
from sdk.cli.support.output import format_option, print_done, print_rows
from sdk.cli.support.session import open_client
from sdk.schemas.aliases import AliasMoveView, AliasView
from sdk.schemas.promotion import SignedStatementView

_expect = click.option("--expect", metavar="vN", help="Only if the alias names this version now; 0 for none.")
_reason = click.option("--reason", default="", help="The reason; kept in the history.")


def _moved(alias: AliasView, style: str) -> None:
    print_done(style, alias.model_dump(mode="json"), alias.ref, f"{alias.adapter}@{alias.alias} names {alias.ref}")


@click.group(name="alias")
def alias_command() -> None:
    """Point names like 'production' at versions."""


@alias_command.command(name="set")
@click.argument("name")
@click.argument("alias")
@click.argument("version", metavar="vN")
@_expect
@_reason
@format_option
def alias_set(name: str, alias: str, version: str, expect: str | None, reason: str, style: str) -> None:
    """Point ALIAS of the adapter NAME at the version vN; print the exact ref.

    \b
    Example:
      adapterctl alias set code-review production v3 --expect v2
    """
    with open_client() as client:
        _moved(client.set_alias(name, alias, version, expect=expect, reason=reason), style)


@alias_command.command(name="list")
@click.argument("name")
@format_option
def alias_list(name: str, style: str) -> None:
    """List the aliases of the adapter NAME, and whether only promoters may move them.

    \b
    Example:
      adapterctl alias list code-review
    """
    with open_client() as client:
        aliases = client.aliases(name)
    columns = ["alias", "ref", "protected", "moved_by", "moved_at"]
    empty = f"no aliases; set one with: adapterctl alias set {name} production vN"
    print_rows(style, aliases, columns, key="alias", empty=empty)


@alias_command.command(name="history")
@click.argument("name")
@click.argument("alias", required=False)
@format_option
def alias_history(name: str, alias: str | None, style: str) -> None:
    """List the moves of the adapter NAME's aliases, or only of ALIAS, newest first.

    \b
    Example:
      adapterctl alias history code-review production
    """
    with open_client() as client:
        moves = client.aliases.history(name, alias)
    columns = ["moved_at", *([] if alias else ["alias"]), "kind", "from", "to", "moved_by", "reason"]
    print_rows(style, moves, columns, key="to", empty="no alias was ever set", shown=_numbers)


def _numbers(move: AliasMoveView) -> dict[str, str]:
    return {"from": _version(move.from_number), "to": _version(move.to_number)}


def _version(number: int | None) -> str:
    return "-" if number is None else f"v{number}"


@alias_command.command(name="rm")
@click.argument("name")
@click.argument("alias")
@_expect
@_reason
@yes_option
@format_option
def alias_rm(name: str, alias: str, expect: str | None, reason: str, yes: bool, style: str) -> None:
    """Remove ALIAS of the adapter NAME; its versions and its history stay.

    \b
    Example:
      adapterctl alias rm code-review staging --expect v2 --yes
    """
    confirm(f"remove {name}@{alias}?", yes=yes)
    with open_client() as client:
        client.aliases.remove(name, alias, expect=expect, reason=reason)
    again = f"{name}@{alias} is removed; set it again with: adapterctl alias set {name} {alias} vN"
    print_done(style, {"adapter": name, "alias": alias, "removed": True}, None, again)


@alias_command.command(name="protect")
@click.argument("scope")
@click.argument("alias")
@format_option
def alias_protect(scope: str, alias: str, style: str) -> None:
    """Let only promoters and admins move ALIAS in SCOPE: an adapter, 'NAMESPACE/*', or '*' for all.

    \b
    Examples:
      adapterctl alias protect code-review production
      adapterctl alias protect 'team/*' production
    """
    with open_client() as client:
        view = client.aliases.protect(scope, alias)
    now = f"only promoters and admins can move {scope}@{alias} from now on"
    print_done(style, view.model_dump(mode="json"), f"{scope}@{alias}", now)


@alias_command.command(name="unprotect")
@click.argument("scope")
@click.argument("alias")
@format_option
def alias_unprotect(scope: str, alias: str, style: str) -> None:
    """Let every writer move ALIAS in SCOPE again.

    \b
    Example:
      adapterctl alias unprotect 'team/*' production
    """
    with open_client() as client:
        client.aliases.unprotect(scope, alias)
    now = f"every writer can move {scope}@{alias} again, unless a wider scope protects it"
    print_done(style, {"scope": scope, "alias": alias, "protected": False}, None, now)


@alias_command.command(name="protected")
@format_option
def alias_protected(style: str) -> None:
    """List the aliases that only promoters and admins may move.

    \b
    Example:
      adapterctl alias protected
    """
    with open_client() as client:
        protected = client.aliases.protected()
    columns = ["scope", "alias", "created_by", "created_at"]
    empty = "no alias is protected; protect one with: adapterctl alias protect NAME production"
    print_rows(
        style, protected, columns, key="name", empty=empty, shown=lambda one: {"name": f"{one.scope}@{one.alias}"}
    )


@click.command(name="promote")
@click.argument("ref")
@click.argument("alias")
@_expect
@_reason
@click.option("--sign", metavar="KEY", help="Then state that ALIAS names it, signed with this private key, a PEM file.")
@click.option("--renew", is_flag=True, help="Only sign; ALIAS is not moved, and must name that version.")
@format_option
def promote_command(
    ref: str, alias: str, expect: str | None, reason: str, sign: str | None, renew: bool, style: str
) -> None:
    """Point ALIAS at the version that REF names now; print the exact ref.

    With --sign, those who pull with --require-signed-alias get it. They refuse a statement that is too old, so
    repeat it with --renew, which also signs what was moved before. The key's password is asked for, or taken from
    ADAPTERCTL_SIGNING_PASSWORD.

    \b
    Examples:
      adapterctl promote code-review@v3 production --expect v2 --reason 'beats v2'
      adapterctl promote code-review@staging production
      adapterctl promote code-review@v3 production --sign KEY.pem
      adapterctl promote code-review@v3 production --sign KEY.pem --renew
    """
    if renew and (expect is not None or reason):
        raise click.UsageError("--expect and --reason belong to a move, and --renew makes none")
    password = ask_password(sign) if sign is not None or renew else None
    with open_client() as client:
        if renew:
            _renewed(client.statements.sign(ref, alias, sign, password=password), style)
        else:
            moved = client.promote(ref, alias, expect=expect, reason=reason, sign=sign, sign_password=password)
            _moved(moved, style)


def _renewed(signed: SignedStatementView, style: str) -> None:
    said = signed.statement
    ref = f"{said.adapter}@sha256:{said.digest}"
    shown = {**said.model_dump(), "key_id": signed.key_id}
    print_done(style, shown, ref, f"{said.adapter}@{said.alias} is signed as {ref}, since move {said.move}")


@click.command(name="rollback")
@click.argument("name")
@click.argument("alias")
@_expect
@_reason
@format_option
def rollback_command(name: str, alias: str, expect: str | None, reason: str, style: str) -> None:
    """Point ALIAS of the adapter NAME back at what it named before its last move; print the exact ref.

    Run it again to go back another move.

    \b
    Example:
      adapterctl rollback code-review production --reason 'v3 repeats itself'
    """
    with open_client() as client:
        _moved(client.rollback(name, alias, expect=expect, reason=reason), style)
