"""`adapterctl ui`: opens the registry's pages in a browser, signed in."""

from __future__ import annotations

import getpass
import os
import shlex
import sys
from urllib.parse import urlsplit

import click

from sdk.cli.support.output import format_option, print_made, say
from sdk.cli.support.session import open_client
from sdk.formats.hosts import is_loopback

#: What a desktop sets on Linux, where a browser may be missing.
_DESKTOP = ("DISPLAY", "WAYLAND_DISPLAY")


@click.command(name="ui")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="The port of 127.0.0.1 for the pages of a folder. [default: a free one]",
)
@format_option
def ui_command(no_browser: bool, port: int, style: str) -> None:
    """Open the registry's pages in a browser, signed in.

    The address counts once, for a minute: with it, the browser becomes whoever ran this. If somebody else was faster, the
    page says so, and what they had is ended.

    For a registry in a folder, the pages are served on 127.0.0.1 as long as this runs, and to nobody without that address;
    if it has expired when a browser comes, another one is printed. Ctrl-C ends it, and jobs go on. For a server, it asks for
    the address with this profile's token, and ends.

    Over ssh no browser is opened, and the line that makes the pages reachable from your own machine is printed.

    \b
    Examples:
      adapterctl ui
      adapterctl ui --no-browser --port 8012
    """
    from sdk import config

    configured = config.load()
    opens = not no_browser and _has_browser()
    if configured.home is None:
        with open_client() as client:
            made = client.tokens.sign_in_code()
        _show(f"{configured.url.rstrip('/')}/ui/code?code={made.code}", style, opens=opens)
        return
    from sdk.api.own_pages import serve_pages

    def show(address: str) -> None:
        nonlocal opens
        _show(address, style, opens=opens)
        if opens or style == "table":
            say("Ctrl-C ends it; jobs go on")
        # A browser that comes late is there already.
        opens = False

    serve_pages(configured, port=port, on_address=show)


def _show(address: str, style: str, *, opens: bool) -> None:
    print_made(style, {"url": address}, address)
    sys.stdout.flush()
    if (line := tunnel(address, os.environ.get("SSH_CONNECTION", ""), getpass.getuser())) is not None:
        say(f"on your own machine, first run:  {line}")
    if opens:
        import webbrowser

        if not webbrowser.open(address):
            say("no browser could be opened; open the address yourself")


def tunnel(address: str, ssh_connection: str, user: str) -> str | None:
    """Return the command that makes an address on loopback reachable from where somebody came by ssh; None if it isn't needed.

    >>> tunnel("http://127.0.0.1:8012/ui/", "10.0.0.9 50022 10.0.0.5 2222", "ada")
    'ssh -N -L 8012:127.0.0.1:8012 -p 2222 ada@10.0.0.5'
    >>> tunnel("https://registry.example.com/ui/", "10.0.0.9 50022 10.0.0.5 22", "ada") is None
    True
    """
    parts, ends = urlsplit(address), ssh_connection.split()
    if len(ends) != 4 or parts.hostname is None or not is_loopback(parts.hostname):
        return None
    port, there = parts.port or 80, [] if ends[3] == "22" else ["-p", ends[3]]
    return shlex.join(["ssh", "-N", "-L", f"{port}:127.0.0.1:{port}", *there, f"{user}@{ends[2]}"])


def _has_browser() -> bool:
    """Whether a browser that is opened here would be seen by whoever runs this."""
    if os.environ.get("BROWSER"):
        return True
    if os.environ.get("SSH_CONNECTION"):
        return False
    return sys.platform != "linux" or any(os.environ.get(name) for name in _DESKTOP)
