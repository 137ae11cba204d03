"""`adapterctl compat`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from sdk.cli.completing.kinds import FOLDER, REF_OR_FOLDER
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.output import NOT_AS_IT_SHOULD_BE, WIDTH, filled, is_piped, plain, print_one, say
from sdk.cli.support.records import print_listing
from sdk.cli.support.session import open_client

if TYPE_CHECKING:
    from sdk.lora.compatibility import Compatibility

#: A word of a command: it has no blanks outside quotes.
_WORD = re.compile(r"(?:'[^']*'|\"[^\"]*\"|\S)+")
#: The prefix and the suffix of a line of a command.
_MARGIN = 8
_COLOURS = {"yes": "green", "no": "red", "unknown": "yellow"}


_RULES = Listing(
    ListColumn("rule"),
    ListColumn("fits", "verdict", 8),
    ListColumn("reason", importance=0),
    ListColumn("read in", "source.place", 7),
    ListColumn("release", "source.version", 5),
    ListColumn("day", "source.day", 4),
    key="rule",
)


@click.command(name="compat")
@click.argument("ref", type=REF_OR_FOLDER)
@click.option(
    "--engine",
    required=True,
    type=click.Choice(["vllm", "sglang", "llama.cpp", "ollama", "peft"]),
    help="What is to serve it.",
)
@click.option(
    "--version",
    help="The engine's version, such as 0.33.0; for llama.cpp a build, such as b11549. [default: the newest read]",
)
@click.option("--base", type=FOLDER, metavar="DIR", help="The folder of the base, where REF is a folder.")
@listed(_RULES)
def compat_command(ref: str, engine: str, version: str | None, base: str | None, style: str) -> None:
    """Say whether an inference engine can serve the version REF, or a folder (./DIR), as it is: yes, no or unknown.

    Each reason names the file of the engine in which its rule was read, with release and day. Beside it are the commands
    that serve it, or the one that makes it fit. Ends with 0 for yes, and with 7 for no and for unknown.

    \b
    Examples:
      adapterctl compat code-review@v3 --engine vllm
      adapterctl compat code-review@production --engine llama.cpp --version b11549
      adapterctl compat ./adapter --base ./SmolLM2-135M-Instruct --engine sglang
      adapterctl compat sql --engine vllm --format json | jq -r '.commands[]'
    """
    with open_client() as client:
        found = client.versions.compat(ref, engine=engine, version=version, base=base)
    draw = _print_rules if is_piped() else _print_page
    print_one(style, found.as_dict(), found.answer.value, lambda: draw(found))
    if found.answer.value != "yes":
        click.get_current_context().exit(NOT_AS_IT_SHOULD_BE)


def _print_rules(found: Compatibility) -> None:
    """Print a rule a line for a program; what to do next is for people."""
    _RULES.print("table", found.findings, empty="no rule was applied")
    say(f"{found.engine} {found.judged_by}: {found.answer.value}")
    for line in (*found.commands, found.fix, found.find_out):
        if line is not None:
            say(line)


def _print_page(found: Compatibility) -> None:
    said = f"{found.engine} {found.judged_by}: {found.answer.value}"
    click.echo(click.style(said, fg=_COLOURS[found.answer.value], bold=True) if sys.stdout.isatty() else said)
    _print_paragraphs([f"! {finding.rule}: {finding.reason}" for finding in found.against])
    click.echo()
    print_listing("rules", _RULES, found.findings)
    if found.answer.value == "yes":
        _print_commands("serve it with:", found.commands)
    _print_commands("make it fit with:", [found.fix] if found.fix else [])
    if found.find_out:
        click.echo("\nfind out with:")
        _print_paragraphs([found.find_out], indent="  ")
    if found.notes:
        click.echo()
        _print_paragraphs([f"- {note}" for note in found.notes])


def _print_commands(label: str, commands: Sequence[str]) -> None:
    """Print commands as they are typed; one that is too long continues after a backslash, so it can be pasted."""
    if commands:
        click.echo(f"\n{label}")
    for command in commands:
        click.echo("  " + " \\\n      ".join(_wrapped(plain(command))))


def _wrapped(command: str) -> list[str]:
    """Break a command between its words, not within quotes, where a backslash would be part of the word."""
    lines = [""]
    for word in _WORD.findall(command):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > WIDTH - _MARGIN:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _print_paragraphs(paragraphs: Sequence[str], *, indent: str = "") -> None:
    for paragraph in paragraphs:
        click.echo(filled(paragraph, indent, "  ", break_long_words=False))
