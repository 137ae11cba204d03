"""`adapterctl generate`. Little is imported, since a warm answer begins within a fraction of a second."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.completing.kinds import FILE, REF
from sdk.cli.support.asking import Printer, asking_options, open_asker, sampling_of
from sdk.cli.support.options import whose_base_options
from sdk.cli.support.output import format_option, json_text, one_line, plain_lines, print_json, say, say_filled

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sdk.asking.asker import Asker, Generation, RunningAnswer
    from sdk.asking.prompts import Prompt, PromptForm, Sampling
    from sdk.asking.rows import RowPrompt
    from sdk.asking.target import AskTarget

#: Rows that are asked at the same time: they share the passes of the base.
_AT_ONCE = 8


@click.command(name="generate")
@click.argument("ref", type=REF)
@click.argument("prompt", required=False)
@click.option(
    "--data", type=FILE, metavar="FILE", help="Ask what comes before the answer of each row of this file instead."
)
@asking_options
@whose_base_options
@format_option
def generate_command(
    ref: str,
    prompt: str | None,
    data: str | None,
    dtype: Any,
    no_keep: bool,
    style: str,
    plain: bool,
    chat: bool,
    base_namespace: str | None,
    published: bool | None,
    **given: Any,
) -> None:
    """Ask a version, or a bare base (base:ID), and print its answer; PROMPT "-" is read from standard input.

    The prompt is rendered as the version's own rows were: as it is for rows of {prompt} and {text}, as a user's turn for
    conversations, by the version's chat template and with its date. Answers are greedy unless --temperature is given, and end
    where the version has learnt to end.

    The base and the version are held by a program on this machine, which stays for 5 minutes after the last question
    (ADAPTERCTL_KEEP_WARM=SECONDS; 0 is --no-keep), or until adapterctl down.

    With --data each row of JSON lines, JSON or CSV has a prompt, messages or a text. With --format json, standard output is
    one object {ref, prompt, completion, stop, reasoning}; with --data a list of these.

    \b
    Examples:
      adapterctl generate code-review@v3 "def add(a, b): return a - b"
      git diff | adapterctl generate code-review@production - --temperature 0.7
      adapterctl generate sql@v4 --data heldout.jsonl --format json > answers.json
    """
    from sdk.asking.prompts import PromptForm, prompt_of_text

    if (prompt is None) == (data is None):
        raise click.UsageError("give either a PROMPT ('-' reads standard input), or --data FILE")
    if plain and chat:
        raise click.UsageError("--plain can't be combined with --chat; give one of them")
    sampling, form = sampling_of(given), PromptForm.of(chat=chat, plain=plain)
    # What is wrong with the prompts is said before anything is loaded.
    rows = None if data is None else _rows(data)
    text = _text(prompt or "")
    if rows is None:
        prompt_of_text(text, is_chat=False)
    with open_asker(dtype=dtype, keeps=not no_keep, quiet=style != "table") as asker:
        target = asker.target(ref, base_namespace=base_namespace, published=published)
        if style == "table" and rows is None and (remark := form.remark(target)) is not None:
            say_filled(remark)
        if rows is None:
            _one(asker, target, form.prompt(text, target), sampling, style)
        else:
            _all(asker, target, form, rows, sampling, style)


def _text(prompt: str) -> str:
    """Return the prompt; of one from standard input, without the line break at its end."""
    from sdk.errors import InvalidInput

    if prompt != "-":
        return prompt
    if sys.stdin.isatty():
        say("type the prompt, and end it with Ctrl-D on a line of its own")
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"byte {error.start + 1} of standard input is not UTF-8; convert the prompt", param="prompt"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


def _rows(data: str) -> list[RowPrompt]:
    from sdk.asking.rows import prompts_of_file
    from sdk.config import user_path

    return prompts_of_file(user_path(data))


def _one(asker: Asker, target: AskTarget, prompt: Prompt, sampling: Sampling, style: str) -> None:
    answer = asker.ask(target, prompt, sampling)
    if style == "json":
        print_json(asdict(_whole(answer)))
        return
    printer = Printer()
    try:
        for piece in answer:
            printer.show(piece)
    finally:
        answer.close()
        printer.end()
    if style == "table" and answer.stop == "length":
        say(_cut(sampling))
    elif style == "table" and not printer.has_written:
        say_filled(
            "the answer is empty: it was ended at once; write the prompt as those of the version's rows, to its last line break"
        )


def _cut(sampling: Sampling) -> str:
    return f"the answer was truncated after {sampling.max_new_tokens} tokens; for longer ones, add --max-new-tokens"


def _whole(answer: RunningAnswer) -> Generation:
    for _ in answer:
        pass
    return answer.generation


def _all(
    asker: Asker, target: AskTarget, form: PromptForm, rows: Sequence[RowPrompt], sampling: Sampling, style: str
) -> None:
    """Print the answers of rows, in their order and as soon as they are there."""
    from sdk.cli.support.session import counting

    printed = 0
    try:
        # On a terminal, the answers themselves show how far it is.
        with nullcontext() if sys.stdout.isatty() else counting("asking", "rows") as show:
            for row, made in _answered(asker, target, form, rows, sampling):
                _print_row(row, made, style, first=not printed)
                printed += 1
                if show is not None:
                    show(printed, len(rows))
    finally:
        # Also of answers that came before an error, the output is one document.
        if style == "json":
            with suppress(BrokenPipeError):
                click.echo("\n]" if printed else "[]")


def _print_row(row: RowPrompt, made: Generation, style: str, *, first: bool) -> None:
    if style == "json":
        click.echo(("[\n" if first else ",\n") + json_text(asdict(made)), nl=False)
    elif style == "quiet":
        click.echo(made.completion)
    else:
        asked = made.prompt if isinstance(made.prompt, str) else str(made.prompt[-1].get("content", ""))
        cut = " (cut)" if made.stop == "length" else ""
        header = f"— {row.where}: {one_line(asked, 60)}{cut}"
        click.echo(("" if first else "\n") + (click.style(header, bold=True) if sys.stdout.isatty() else header))
        click.echo(plain_lines(made.completion))


def _answered(
    asker: Asker, target: AskTarget, form: PromptForm, rows: Iterable[RowPrompt], sampling: Sampling
) -> Iterator[tuple[RowPrompt, Generation]]:
    """Yield each row with its answer. Raises InvalidData, naming the row, for a prompt that is too long."""
    from concurrent.futures import ThreadPoolExecutor

    from sdk.errors import InvalidData, InvalidInput

    begun: set[RunningAnswer] = set()
    stopped = False

    def ask(row: RowPrompt) -> Generation:
        try:
            answer = asker.ask(target, form.prompt(row.prompt, target), sampling)
        except InvalidInput as error:
            raise InvalidData(f"{row.where}: {error.message}", param="data") from error
        begun.add(answer)
        try:
            if stopped:
                answer.close()
            return _whole(answer)
        finally:
            begun.discard(answer)

    asker.ready(target)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting: deque[tuple[RowPrompt, Future[Generation]]] = deque()
        try:
            for row in rows:
                waiting.append((row, pool.submit(ask, row)))
                if len(waiting) >= 2 * _AT_ONCE:
                    yield _next(waiting)
            while waiting:
                yield _next(waiting)
        finally:
            stopped = True
            for _, future in waiting:
                future.cancel()
            for answer in list(begun):
                answer.close()


def _next(waiting: deque[tuple[RowPrompt, Future[Generation]]]) -> tuple[RowPrompt, Generation]:
    row, future = waiting.popleft()
    return row, future.result()
