"""`adapterctl chat`."""

from __future__ import annotations

import sys
from typing import Any

import click

from sdk.cli.completing.kinds import REF
from sdk.cli.support.asking import asking_options, open_asker, sampling_of
from sdk.cli.support.chatting import Chat
from sdk.cli.support.options import whose_base_options


@click.command(name="chat")
@click.argument("ref", type=REF)
@click.option(
    "--against",
    type=REF,
    metavar="REF",
    help="Show another version's answers side by side; 'base:' is its own base, base:ID another.",
)
@click.option("--system", metavar="TEXT", help="Begin the conversation with a system message.")
@asking_options
@whose_base_options
def chat_command(
    ref: str,
    against: str | None,
    system: str | None,
    dtype: Any,
    no_keep: bool,
    plain: bool,
    chat: bool,
    base_namespace: str | None,
    published: bool | None,
    **given: Any,
) -> None:
    """Talk to a version, on this machine; with --against to two of them side by side.

    Ctrl-C stops an answer, and Ctrl-D leaves. A version whose rows were no conversations is asked each line by itself, unless
    --chat is given. Nothing is written anywhere but by /save.

    \b
    In the conversation:
      /use v2        go on with another version of the adapter, or another REF
      /system TEXT   the system message from now on; without TEXT none
      /save NAME     append the conversation to NAME.jsonl, as rows of a dataset
      /clear         begin again
      /help, /quit

    \b
    Examples:
      adapterctl chat code-review@v3
      adapterctl chat code-review@v3 --against base:
      adapterctl chat code-review@v3 --against code-review@v2 --temperature 0.7
    """
    from sdk.asking.prompts import PromptForm
    from sdk.asking.target import BASE

    sampling, form = sampling_of(given), PromptForm.of(chat=chat, plain=plain)
    with open_asker(dtype=dtype, keeps=not no_keep) as asker:
        whose: dict[str, Any] = {"base_namespace": base_namespace, "published": published}
        names_base = ref.startswith(BASE) or against is None or not against.removeprefix(BASE)
        left = asker.target(ref, **(whose if names_base else {}))
        other = None
        if against is not None:
            other = left.bare() if against == BASE else asker.target(against, **({} if names_base else whose))
        talk = Chat(asker, left, other, form=form, sampling=sampling, system=system)
        talk.begin()
        if sys.stdin.isatty():
            talk.on_terminal()
        else:
            talk.from_lines(sys.stdin)
