"""`adapterctl login`."""

from __future__ import annotations

import os
import sys

import click

from sdk import config
from sdk.cli.output import say
from sdk.client import Client
from sdk.errors import InvalidInput


@click.command(name="login")
@click.argument("url")
@click.option("--token-stdin", is_flag=True, help="Read the token from standard input.")
def login_command(url: str, token_stdin: bool) -> None:
    """Remember the registry at URL and a token, in a file that only you can read.

    The token comes from ADAPTERCTL_TOKEN, from standard input, or is asked for; it is never an argument, which
    other users of the machine could see.

    \b
    Example:
      adapterctl login https://registry.example --token-stdin < token.txt
    """
    if token_stdin:
        token = sys.stdin.read().strip()
    elif os.environ.get("ADAPTERCTL_TOKEN"):
        token = os.environ["ADAPTERCTL_TOKEN"]
    elif sys.stdin.isatty():
        token = click.prompt("token", hide_input=True, err=True)
    else:
        raise InvalidInput("there is no terminal to ask for the token; give it with --token-stdin", param="token")
    client = Client(config.check_url(url), token)
    client.adapters()
    path = config.write_profile(config.Config(config.check_url(url), token))
    say(f"remembered in {path}")
