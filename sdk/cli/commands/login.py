"""`adapterctl login`, `logout`, `whoami`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import click

from sdk import config
from sdk.cli.commands.tokens import in_words
from sdk.cli.completing.names_file import NamesFile
from sdk.cli.support.output import format_option, print_done, print_one, say
from sdk.cli.support.records import print_facts
from sdk.cli.support.session import open_client
from sdk.client import Client
from sdk.errors import InvalidInput, disk_explained


@click.command(name="login")
@click.argument("url")
@click.option("--token-stdin", is_flag=True, help="Read the token from standard input.")
@click.option("--insecure", is_flag=True, help="Accept plain http to another machine, now and in the future.")
@format_option
def login_command(url: str, token_stdin: bool, insecure: bool, style: str) -> None:
    """Remember the registry at URL and a token, in a file that only you can read; show who you are to it.

    The token comes from standard input, from ADAPTERCTL_TOKEN, or a prompt; it is never an argument, which other
    users of the machine could see. A token that the registry refuses is not stored.

    \b
    Example:
      adapterctl login https://registry.example --token-stdin < token.txt
    """
    chosen = config.Config(config.check_url(url), None, config.load(url, insecure=insecure).insecure)
    if chosen.home is None:
        # This is checked before asking for a token.
        chosen.reach.require(chosen.url)
        chosen = replace(chosen, token=config.check_token(_token(token_stdin)))
    client = Client(chosen.url, chosen.token, insecure=chosen.insecure)
    who = client.tokens.whoami()
    client.close()
    path = config.write_profile(chosen)
    if style == "table":
        say(f"remembered in {path}")
    document = {"url": chosen.url, "profile": str(path), **who.model_dump(mode="json")}
    print_one(style, document, who.name, lambda: click.echo(f"{who.name}: {in_words(who.grants)}"))


def _token(from_stdin: bool) -> str:
    if from_stdin:
        token = sys.stdin.read().strip()
    elif os.environ.get("ADAPTERCTL_TOKEN"):
        token = os.environ["ADAPTERCTL_TOKEN"]
    elif sys.stdin.isatty():
        token = click.prompt("token", hide_input=True, err=True)
    else:
        raise InvalidInput("there is no terminal to ask for the token; give it with --token-stdin", param="token")
    if not token:
        raise InvalidInput(
            "there was no token on standard input; send one, for example with: < token.txt", param="token"
        )
    return token


@click.command(name="logout")
@format_option
def logout_command(style: str) -> None:
    """Forget the registry's URL and token that `login` remembered, and the names that shells complete.

    The token itself stays valid; an admin revokes it with: adapterctl token revoke.

    \b
    Example:
      adapterctl logout
    """
    try:
        configured = config.load()
    except InvalidInput:
        # What can't be read is removed as well.
        configured = config.Config(config.DEFAULT_URL)
    profile = config.profile_path()
    with disk_explained("removing the profile"):
        existed = config.remove_profile()
    NamesFile(configured).forget()
    told = f"removed {profile}" if existed else "nobody is logged in; there was nothing to forget"
    left = ["ADAPTERCTL_TOKEN is still set in this shell; unset it, too"] if os.environ.get("ADAPTERCTL_TOKEN") else []
    print_done(style, {"url": configured.url, "profile": str(profile), "removed": existed}, None, told, *left)


@click.command(name="whoami")
@format_option
def whoami_command(style: str) -> None:
    """Show who you are to the registry, and what you may do where.

    \b
    Example:
      adapterctl whoami
    """
    with open_client() as client:
        url = client.config.url
        who = client.tokens.whoami()
    token = [] if who.token is None else [("token", who.token)]
    facts = [("registry", url), ("name", who.name), *token, ("roles", in_words(who.grants))]
    print_one(style, {"url": url, **who.model_dump(mode="json")}, who.name, lambda: print_facts(facts))
