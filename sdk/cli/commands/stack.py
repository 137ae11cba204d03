"""`adapterctl up`, `down`, `status` and `logs`: the stack on this machine, from installed wheels."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sdk.cli.completing.kinds import REF
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.output import format_option, format_option_of, plain, print_one, say, say_filled
from sdk.cli.support.records import print_facts
from sdk.config import user_path
from sdk.errors import InvalidInput
from sdk.stack.running import STACK_HOME, STACK_HOME_VARIABLE

if TYPE_CHECKING:
    from sdk.stack.control import Part
    from sdk.stack.home import Stack

F = TypeVar("F", bound=Callable[..., object])

_PARTS = Listing(
    ListColumn("part"),
    ListColumn("state", importance=8),
    ListColumn("port", importance=7),
    ListColumn("pid", importance=5),
    ListColumn("uptime", "uptime_s", 6),
    ListColumn("restarts", importance=4),
    ListColumn("message", importance=0),
    ListColumn("log", importance=0),
    key="part",
)


def _home_option(command: F) -> F:
    """Add `--home DIR`."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path),
        envvar=STACK_HOME_VARIABLE,
        show_envvar=True,
        default=STACK_HOME,
        show_default=True,
        help="The stack's folder; each folder is a separate stack.",
    )(command)


@click.command(name="up")
@click.option(
    "--workers", type=click.IntRange(0, 64), help="How many workers. [default: as many as before, at first 1]"
)
@click.option(
    "--serve",
    "served",
    type=REF,
    multiple=True,
    metavar="REF",
    help="Also serve this version or adapter, with a key of its own, as serve does; repeatable. [default: as before]",
)
@click.option("--no-serve", "serves_nothing", is_flag=True, help="Serve nothing any more.")
@_home_option
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=300,
    show_default=True,
    help="Seconds to wait until everything is ready; then exit 8.",
)
@format_option_of("table", "json", "quiet", "env", says="env: lines for eval in a shell; quiet: the URL alone.")
def up_command(
    workers: int | None, served: tuple[str, ...], serves_nothing: bool, home: Path, timeout_s: float, style: str
) -> None:
    """Start a whole registry on this machine, with its servers and workers, and print its URL and an admin token.

    PostgreSQL, Valkey, SeaweedFS, the registry and the workers come from installed packages, listen on 127.0.0.1 and
    keep running after this command ends. A part that dies is restarted. Run it again to start parts that are not
    running; if all are, it prints the same. Passwords of the servers are not printed: they are in the file that --format json names.

    It needs more than the SDK: pip install 'adapterctl[local,stack]'

    \b
    Examples:
      adapterctl up
      adapterctl up --workers 2 --home /srv/adapters --format json
      eval "$(adapterctl up --format env)"
    """
    from sdk.stack import control

    stack = _stack(home)
    ran = {part.part: part.pid for part in control.status(stack) if part.pid} if stack.exists else {}
    with _telling() as on_look:
        document = control.up(
            stack,
            workers=workers,
            serve=served if served or serves_nothing else None,
            timeout_s=timeout_s,
            on_look=on_look,
        )
    if style == "env":
        for variable, value in (("ADAPTERCTL_URL", document["url"]), ("ADAPTERCTL_TOKEN", document["token"])):
            click.echo(f"export {variable}={shlex.quote(value)}")
    else:
        _print_running(style, document)
    for line in not_started(ran, control.status(stack), workers=stack.workers, serves=bool(stack.served)):
        say(line)


def not_started(ran: Mapping[str, int], parts: Sequence[Part], *, workers: int, serves: bool) -> Iterator[str]:
    """Yield what `up` has not started: `ran` has the process of each part that was there before."""
    before = [part.part for part in parts if ran.get(part.part) == part.pid and part.pid]
    if before:
        yield f"running already, and not started again: {', '.join(before)}"
    if not workers:
        yield "not started: workers, so no job runs; start one with: adapterctl up --workers 1"
    if not serves:
        yield "not started: a gateway that serves versions; start one with: adapterctl up --serve REF"


def _print_running(style: str, document: dict[str, Any]) -> None:
    facts = [("url", document["url"]), ("token", document["token"])]
    if "gateway" in document:
        facts += [("gateway", document["gateway"]["url"]), ("gateway's key", document["gateway"]["key"])]
    print_one(style, document, document["url"], lambda: print_facts(facts))
    if style == "table":
        # On a terminal the token is visible anyway; elsewhere this line must not write it into a log.
        token = document["token"] if sys.stdout.isatty() else "…"
        say(f"use it in this shell:  export ADAPTERCTL_URL={document['url']} ADAPTERCTL_TOKEN={token}")
        say(f"or from now on:        adapterctl login {document['url']}")


@click.command(name="down")
@_home_option
@format_option
def down_command(home: Path, style: str) -> None:
    """Stop the stack: workers first, which give their jobs back, then the registry and its servers. The data stays.

    Engine programs that generate and chat have started, and that wait for the next question, end too, and so do the helpers
    that commands over folders have left.

    \b
    Example:
      adapterctl down
    """
    from sdk.pulling.cache import Cache
    from sdk.stack import control
    from sdk.stack.engine_parts import end_engines
    from sdk.stack.helper_parts import end_home_helpers

    stack = _stack(home)
    with _waiting("stopping; a worker has 30 s to give back its job"):
        ended = end_engines(Cache()) + end_home_helpers()
        # Without a stack, these are all that there is to end.
        if stack.exists or not ended:
            ended += control.down(stack)

    def tell() -> None:
        say(f"ended: {', '.join(ended)}" if ended else "nothing ran")
        if stack.exists:
            say(f"the data stays in {stack.home}")

    print_one(style, {"home": str(stack.home), "ended": ended}, ended, tell)


@click.command(name="status")
@_home_option
@listed(_PARTS)
def status_command(home: Path, style: str) -> None:
    """Show the stack's parts: whether each is ready, its process, port, uptime, and number of restarts.

    Engine programs that wait for the next question of generate or chat are shown too, also without a stack, and so are helpers
    of folders.

    \b
    Examples:
      adapterctl status
      adapterctl status --format quiet   # one word: ready, degraded or stopped
    """
    from sdk.pulling.cache import Cache
    from sdk.stack import control
    from sdk.stack.engine_parts import engine_parts
    from sdk.stack.helper_parts import helper_parts

    stack, others = _stack(home), engine_parts(Cache()) + helper_parts()
    parts = control.status(stack) if stack.exists or not others else []
    if style == "quiet":
        click.echo(control.overall(parts) if parts else "stopped")
        return
    parts += others
    rows = [asdict(part) for part in parts]
    _PARTS.print(style, rows, empty="there is no stack here; start one with: adapterctl up")
    if style == "table":
        for part in parts:
            if part.message:
                say_filled(f"{part.part}: {part.message}; log: {part.log}")


@click.command(name="logs")
@click.argument("part", required=False)
@click.option("-f", "--follow", "goes_on", is_flag=True, help="Keep printing what is written from now on.")
@click.option(
    "--lines",
    type=click.IntRange(0, 100_000),
    help="How many lines of each part. [default: 100 for one part, 10 each for all]",
)
@_home_option
def logs_command(part: str | None, goes_on: bool, lines: int | None, home: Path) -> None:
    """Print the last lines of a PART's log, such as registry or worker-1, or of all logs.

    \b
    Examples:
      adapterctl logs registry
      adapterctl logs -f
    """
    from sdk.stack import control
    from sdk.stack.control import follow, last_lines

    paths = control.log_paths(_stack(home))
    if part is not None and part not in paths:
        raise InvalidInput(f"there is no part {part!a}; choose one of {', '.join(paths)}", param="part")
    chosen = paths if part is None else {part: paths[part]}
    width = max(map(len, chosen)) if part is None else 0
    count = lines if lines is not None else (10 if part is None else 100)
    places = {}
    for name, path in chosen.items():
        found, places[name] = last_lines(path, count)
        for line in found:
            _print_line(name, line, width)
    if goes_on:
        for name, line in follow(chosen, places):
            _print_line(name, line, width)


def _stack(home: Path) -> Stack:
    from sdk.stack.home import Stack

    return Stack(user_path(home))


def _print_line(name: str, line: str, width: int) -> None:
    click.echo(f"{name:<{width}} | {plain(line)}" if width else plain(line))


@contextmanager
def _telling() -> Iterator[Callable[[Sequence[Part]], None]]:
    """Reports each part that becomes ready or fails, with a line each, and shows what is being waited for."""
    told: set[str] = set()
    with _waiting("starting") as (update, tell):

        def look(parts: Sequence[Part]) -> None:
            for part in parts:
                where = f" on 127.0.0.1:{part.port}" if part.port else ""
                line = f"{part.part:<10} ready{where}, pid {part.pid}" if part.state == "ready" else part.message
                if line not in told and part.state in ("ready", "failing"):
                    told.add(line)
                    tell(line)
            update(f"starting {', '.join(part.part for part in parts if part.state != 'ready')}")

        try:
            yield look
        except KeyboardInterrupt:
            tell("starting continues in the background; see: adapterctl status, or stop it with: adapterctl down")
            raise


@contextmanager
def _waiting(doing: str) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """Show what is being done on a terminal; yield a function that changes the text, and one that prints a line above it."""
    if not sys.stderr.isatty():
        yield lambda _doing: None, say
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    with console.status(Text(doing)) as shown:
        yield (
            lambda doing: shown.update(Text(doing, no_wrap=True, overflow="ellipsis")),
            lambda line: console.print(Text(plain(line))),
        )


def _duration(seconds: int | None) -> str | None:
    """Return "12 s", "5 min", "2 h 05 min" or "3 d 4 h"."""
    if seconds is None:
        return None
    if seconds < 100:
        return f"{seconds} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
    return f"{hours // 24} d {hours % 24} h"
