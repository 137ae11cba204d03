"""What `generate` and `chat` share: options, the asker of a command, and answers shown as they come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sdk.cli.support.output import plain_lines, say_filled, writable

if TYPE_CHECKING:
    from sdk.asking.asker import AnswerPiece, Asker, Dtype
    from sdk.asking.programs import EngineBase
    from sdk.asking.prompts import Sampling
    from sdk.client import Client

F = TypeVar("F", bound=Callable[..., Any])

DTYPES = ("float32", "bfloat16", "float16")


def asking_options(command: F) -> F:
    """Add the options that say how tokens are chosen, how a prompt is rendered, and how the base is held."""
    for option in reversed(
        (
            click.option(
                "--max-new-tokens",
                type=click.IntRange(1, 1_000_000),
                default=256,
                show_default=True,
                help="Longest answer, in tokens.",
            ),
            click.option(
                "--temperature",
                type=click.FloatRange(0, 2),
                default=0.0,
                show_default=True,
                help="0 is greedy: the same answer each time.",
            ),
            click.option(
                "--top-p",
                type=click.FloatRange(0, 1, min_open=True),
                help="Nucleus sampling: the likeliest tokens that make up this share.",
            ),
            click.option("--seed", type=int, help="With --temperature: the same answer each time."),
            click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be repeated."),
            click.option("--plain", is_flag=True, help="Ask the text as it is, without a chat template."),
            click.option("--chat", is_flag=True, help="Ask the text as a user's turn, by the chat template."),
            click.option(
                "--dtype",
                type=click.Choice(DTYPES),
                help="Precision of the base's weights. [default: as it was trained on; float32 on a CPU]",
            ),
            click.option("--no-keep", is_flag=True, help="End the engine program with this command."),
        )
    ):
        command = option(command)
    return command


def sampling_of(given: dict[str, Any]) -> Sampling:
    """Take the options of sampling out of those of a command. Raises InvalidInput."""
    from sdk.asking.prompts import Sampling

    names = ("max_new_tokens", "temperature", "top_p", "seed", "stop")
    return Sampling(**{name: given.pop(name) for name in names})


@contextmanager
def open_asker(*, dtype: Dtype | None, keeps: bool, quiet: bool = False) -> Iterator[Asker]:
    """The asker of the configured registry, which makes a client only if the registry has to be asked."""
    from sdk import config
    from sdk.asking.asker import Asker
    from sdk.pulling.cache import Cache

    def started(base: EngineBase) -> None:
        if not quiet:
            say_filled(f"loading {base.id}{_staying(asker.idle_s)}")

    with ExitStack() as held:

        @cache
        def reach() -> Client:
            from sdk.cli.support.session import open_client

            return held.enter_context(open_client())

        asker = Asker(reach, config=config.load(), cache=Cache(), dtype=dtype, keeps=keeps, on_start=started)
        held.enter_context(closing(asker))
        yield asker


def _staying(idle_s: float) -> str:
    if not idle_s:
        return ""
    minutes = f"{idle_s:.0f} s" if idle_s < 120 else f"{idle_s / 60:.0f} min"
    return f"; it stays for {minutes} after the last question (adapterctl status)"


class Printer:
    """Prints an answer as it comes: to a terminal safely, with thoughts dimmed; elsewhere as it is, without thoughts."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._thinks = False
        self._ends_line = True
        self.has_written = False

    def show(self, piece: AnswerPiece) -> None:
        """Print a piece at once."""
        if piece.is_reasoning and not self._is_terminal:
            return
        if self._thinks and not piece.is_reasoning:
            self._write("\n\n")
        self._thinks = piece.is_reasoning
        text = plain_lines(piece.text) if self._is_terminal else writable(piece.text)
        self._write(click.style(text, dim=True) if piece.is_reasoning else text)
        self._ends_line = text.endswith("\n")
        self.has_written = True

    def end(self) -> None:
        """End the last line, if it isn't ended."""
        if not self._ends_line:
            self._write("\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
