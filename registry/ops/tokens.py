"""`adapter-registry token`: who may do what where."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from registry.errors import Invalid
from registry.ops.database import current_database
from registry.principal import SYSTEM, Role

if TYPE_CHECKING:
    from registry.access.tokens import Tokens


@click.group()
def token() -> None:
    """API tokens."""


@token.command()
@click.option("--role", required=True, type=click.Choice(["reader", "writer", "promoter", "worker", "server", "admin"]))
@click.option(
    "--namespace", default="*", show_default=True, help="Where: a namespace, '-' for names without one, '*' for all."
)
@click.option("--name", default="admin", show_default=True, help="Who holds it; shown in histories.")
@click.option(
    "--days", default=None, type=click.IntRange(1, 3650), help="Expire after this many days. [default: never]"
)
@click.option("--replace", is_flag=True, help="Replace the token in use that has this name, at once.")
def create(role: str, namespace: str, name: str, days: int | None, replace: bool) -> None:
    """Create a token and print it; it can't be shown again.

    \b
    Example:
      adapter-registry token create --role admin
    """
    grants = {namespace: Role(role)}
    made = _tokens().create(name=name, grants=grants, days=days, replace=replace, who=SYSTEM)
    click.echo(f"token {made.id} for {name} ({role} of {namespace}); keep it; it is not shown again:", err=True)
    click.echo(made.secret)


@token.command(name="list")
def list_tokens() -> None:
    """List tokens, without their secrets, as JSON."""
    rows = [view.model_dump(mode="json") for view in _tokens().list(who=SYSTEM)]
    click.echo(json.dumps(rows, indent=2))


@token.command()
@click.argument("token_id", required=False)
@click.option("--namespace", help="Instead of one token: take away every token's role in this namespace.")
def revoke(token_id: str | None, namespace: str | None) -> None:
    """Revoke a token, within a second on every server process.

    \b
    Examples:
      adapter-registry token revoke 9f86d081884c7d65
      adapter-registry token revoke --namespace team
    """
    if (token_id is None) == (namespace is None):
        raise Invalid("say which: a token's ID, or --namespace NAMESPACE for all of its tokens", param="token_id")
    tokens = _tokens()
    if token_id is not None:
        tokens.revoke(token_id, who=SYSTEM)
    elif namespace is not None:
        click.echo(json.dumps(tokens.revoke_namespace(namespace, who=SYSTEM).model_dump(mode="json"), indent=2))


def _tokens() -> Tokens:
    from registry.access.tokens import Tokens
    from registry.promotion.generations import raise_generations

    # As servers do: a decision that waits to be carried out must not count somebody whose token ends here.
    return Tokens(current_database(), on_ended=raise_generations)
